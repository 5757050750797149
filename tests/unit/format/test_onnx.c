/* test_onnx.c - ONNX files: initialisers in the directory, names of the exporter's constants, refusals. The
 * files are written here, message by message; a real export is tests/golden/gpt_sovits/g2pw. */
#include "unit/format/format_fixture.h"

#include "format/onnx.h"

typedef struct buffer {
    uint8_t data[2048];
    size_t size;
} buffer;

static void put_varint(buffer *b, uint64_t v)
{
    for (; v > 127; v >>= 7)
        b->data[b->size++] = (uint8_t)(v | 128);
    b->data[b->size++] = (uint8_t)v;
}

static void put_number(buffer *b, unsigned field, uint64_t v)
{
    put_varint(b, field << 3);
    put_varint(b, v);
}

static void put_bytes(buffer *b, unsigned field, const void *data, size_t size)
{
    put_varint(b, field << 3 | 2);
    put_varint(b, size);
    memcpy(b->data + b->size, data, size);
    b->size += size;
}

static void put_text(buffer *b, unsigned field, const char *text)
{
    put_bytes(b, field, text, strlen(text));
}

/* TensorProto in a graph; raw: field 9, else field 4. */
static void put_tensor(buffer *graph, const char *name, int64_t rows, int64_t columns, bool raw)
{
    buffer t = {.size = 0};
    float values[16];
    const size_t count = (size_t)(rows * (columns ? columns : 1));
    for (size_t i = 0; i < count; i++)
        values[i] = (float)i;
    put_number(&t, 1, (uint64_t)rows);
    if (columns)
        put_number(&t, 1, (uint64_t)columns);
    put_number(&t, 2, 1); /* FLOAT */
    put_text(&t, 8, name);
    put_bytes(&t, raw ? 9 : 4, values, count * sizeof *values);
    put_bytes(graph, 5, t.data, t.size);
}

static void put_node(buffer *graph, const char *type, const char *a, const char *b, const char *out)
{
    buffer n = {.size = 0};
    put_text(&n, 1, a);
    put_text(&n, 1, b);
    put_text(&n, 2, out);
    put_text(&n, 4, type);
    put_bytes(graph, 1, n.data, n.size);
}

static void put_model(buffer *file, const buffer *graph)
{
    file->size = 0;
    put_number(file, 1, 7);
    put_text(file, 2, "a test");
    put_bytes(file, 7, graph->data, graph->size);
}

/* x W1 + b, b + x W2: both orders of a sum; W3 is added to nothing. */
static void make_graph(buffer *graph)
{
    graph->size = 0;
    put_node(graph, "MatMul", "x", "onnx::MatMul_7", "p");
    put_node(graph, "Add", "p", "a.bias", "q");
    put_node(graph, "MatMul", "q", "8", "r");
    put_node(graph, "Add", "b.bias", "r", "s");
    put_node(graph, "MatMul", "s", "free", "t");
    put_tensor(graph, "onnx::MatMul_7", 2, 3, true);
    put_tensor(graph, "a.bias", 3, 0, false);
    put_tensor(graph, "8", 3, 2, true);
    put_tensor(graph, "b.bias", 2, 0, true);
    put_tensor(graph, "free", 2, 2, true);
}

static mica_status open_buffer(mica_weights **w, const buffer *b, mica_err *err)
{
    *err = (mica_err){.status = MICA_OK};
    return mica_weights_open_memory(w, "input.onnx", b->data, b->size, err);
}

static void refuse(const buffer *b, mica_status status, const char *expected)
{
    mica_err err;
    mica_weights *w = NULL;
    const mica_status st = open_buffer(&w, b, &err);
    assert_null(w);
    expect_failure(st, &err, status, expected);
}

static void test_names_and_turns(void **state)
{
    (void)state;
    buffer graph, file;
    mica_err err;
    mica_weights *w;
    make_graph(&graph);
    put_model(&file, &graph);
    assert_true(mica_onnx_is_image(file.data, file.size));
    expect_ok(open_buffer(&w, &file, &err), &err);
    assert_int_equal(mica_weights_count(w), 5);
    const mica_tensor *t = mica_weights_find(w, "a.weight");
    assert_non_null(t);
    assert_int_equal(t->shape_[0], 3); /* [in, out] became [out, in] */
    assert_int_equal(t->shape_[1], 2);
    for (int64_t o = 0; o < 3; o++)
        for (int64_t i = 0; i < 2; i++)
            assert_true(mica_tensor_read_f32(t, o * 2 + i) == (float)(i * 3 + o));
    assert_non_null(mica_weights_find(w, "b.weight"));
    assert_non_null(mica_weights_find(w, "free"));
    assert_null(mica_weights_find(w, "8"));
    assert_true(mica_tensor_read_f32(mica_weights_find(w, "a.bias"), 2) == 2.0f);
    mica_weights_close(&w);
}

/* A weight that kept its name: the constant stays what it is called. */
static void test_taken_names(void **state)
{
    (void)state;
    buffer graph, file;
    mica_err err;
    mica_weights *w;
    make_graph(&graph);
    put_tensor(&graph, "a.weight", 2, 2, true);
    put_model(&file, &graph);
    expect_ok(open_buffer(&w, &file, &err), &err);
    assert_non_null(mica_weights_find(w, "onnx::MatMul_7"));
    assert_int_equal(mica_weights_find(w, "a.weight")->shape_[0], 2);
    mica_weights_close(&w);
}

static void test_refusals(void **state)
{
    (void)state;
    buffer graph = {.size = 0}, file, t = {.size = 0};
    put_tensor(&graph, "a", 2, 2, true);
    put_tensor(&graph, "a", 2, 2, true);
    put_model(&file, &graph);
    refuse(&file, MICA_E_FORMAT, "two initialisers are called a");
    graph.size = 0;
    put_number(&t, 1, 3);
    put_number(&t, 2, 1);
    put_text(&t, 8, "outside");
    put_number(&t, 14, 1); /* data_location: EXTERNAL */
    put_bytes(&graph, 5, t.data, t.size);
    put_model(&file, &graph);
    refuse(&file, MICA_E_UNSUPPORTED, "outside lies in a file of its own");
    graph.size = t.size = 0;
    put_number(&t, 1, (uint64_t)1 << 62);
    put_number(&t, 1, 8);
    put_number(&t, 2, 1);
    put_text(&t, 8, "huge");
    put_bytes(&t, 9, "0123", 4);
    put_bytes(&graph, 5, t.data, t.size);
    put_model(&file, &graph);
    refuse(&file, MICA_E_FORMAT, "the sizes of huge are not those of its data");
    file.size = 0;
    put_number(&file, 1, 7);
    put_text(&file, 2, "no graph at all");
    refuse(&file, MICA_E_FORMAT, "without a graph");
}

/* Cut anywhere, the file is refused or what is left of it is whole. */
static void test_cut_short(void **state)
{
    (void)state;
    buffer graph, file;
    make_graph(&graph);
    put_model(&file, &graph);
    for (size_t n = 0; n < file.size; n++) {
        buffer cut = file;
        mica_err err;
        mica_weights *w = NULL;
        cut.size = n;
        assert_int_not_equal(open_buffer(&w, &cut, &err), MICA_OK);
        assert_true(err.text[0] != '\0');
    }
}

static void test_real_export(void **state)
{
    (void)state;
    mica_err err = {.status = MICA_OK};
    mica_weights *w, *peek;
    const char *path = MICA_TEST_DATA "/gpt_sovits/g2pw/g2pW.onnx";
    expect_ok(mica_weights_open(&w, path, &err), &err);
    expect_ok(mica_weights_peek(&peek, MICA_TEST_DATA "/gpt_sovits/g2pw", &err), &err);
    assert_int_equal(mica_weights_count(w), mica_weights_count(peek));
    for (size_t i = 0; i < mica_weights_count(w); i++) {
        const mica_tensor *a = mica_weights_tensor(w, i), *b = mica_weights_tensor(peek, i);
        assert_string_equal(mica_weights_name(w, i), mica_weights_name(peek, i));
        assert_null(strstr(mica_weights_name(w, i), "onnx::"));
        assert_memory_equal(a->shape_, b->shape_, sizeof a->shape_);
    }
    assert_int_equal(
        mica_weights_find(w, "bert.encoder.layer.1.intermediate.dense.weight")->shape_[0], 64);
    mica_weights_close(&w);
    mica_weights_close(&peek);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_and_turns), cmocka_unit_test(test_taken_names),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_cut_short),
        cmocka_unit_test(test_real_export)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
