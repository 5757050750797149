/* test_chat_template.c - conversations as templates render them. Expected texts are those of Jinja with
 * trim_blocks and lstrip_blocks, as transformers renders. */
#include "base/mem.h"
#include "text/chat_template.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const mica_message TURNS[] = {
    {"system", "Be brief."}, {"user", "Hi"}, {"assistant", "Hello"}, {"user", " two words "}};
#define ALL  TURNS, 4
#define LAST (TURNS + 1), 3

static void expect(const char *source, const mica_message *turns, int count, const char *expected)
{
    mica_err err = {0};
    mica_text out = {0};
    const mica_chat_input input = {.messages = turns,
                                   .count = count,
                                   .bos = "<s>",
                                   .eos = "</s>",
                                   .add_generation_prompt = true};
    if (mica_chat_template_render("t", source, &input, &out, &err) != MICA_OK)
        fail_msg("%s: %s", source, err.text);
    assert_string_equal(out.size ? out.data : "", expected);
    mica_text_deinit(&out);
}

static void refuse(const char *source, mica_status status, const char *why)
{
    mica_err err = {0};
    mica_text out = {0};
    const mica_chat_input input = {.messages = TURNS, .count = 4};
    const mica_status st = mica_chat_template_render("t", source, &input, &out, &err);
    if (st != status || !strstr(err.text, why))
        fail_msg("%s: status %d, \"%s\" does not say \"%s\"", source, (int)st, err.text, why);
    mica_text_deinit(&out);
}

static void test_mixtral(void **state)
{
    (void)state;
    expect(mica_chat_template_mixtral, ALL,
           "<s> [INST] Be brief.\n\nHi [/INST] Hello</s> [INST]  two words  [/INST]");
    expect(mica_chat_template_mixtral, LAST,
           "<s> [INST] Hi [/INST] Hello</s> [INST]  two words  [/INST]");
    refuse(mica_chat_template_mixtral, MICA_OK, "");
    mica_err err = {0};
    mica_text out = {0};
    const mica_chat_input wrong = {.messages = TURNS + 2, .count = 2};
    assert_int_equal(mica_chat_template_render("t", mica_chat_template_mixtral, &wrong, &out, &err),
                     MICA_E_USAGE);
    assert_non_null(strstr(err.text, "take turns"));
    mica_text_deinit(&out);
}

/* The forms that Mistral's and others' files have used. */
static void test_published_forms(void **state)
{
    (void)state;
    expect("{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != "
           "(loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}{% if "
           "message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif "
           "message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}{{ "
           "raise_exception('roles') }}{% endif %}{% endfor %}",
           LAST, "<s>[INST] Hi [/INST]Hello</s>[INST]  two words  [/INST]");
    expect(
        "{% for m in messages %}\n  {% if m.role == 'user' %}\n<|user|>\n{{ m.content | trim }}\n"
        "  {% endif %}\n{% endfor %}\n{%- if add_generation_prompt %}\n<|assistant|>{% endif %}",
        LAST, "<|user|>\nHi\n<|user|>\ntwo words\n<|assistant|>");
}

static void test_expressions(void **state)
{
    (void)state;
    expect("{{ 1 + 2 * 3 }} {{ (1 + 2) * 3 }} {{ 7 // 2 }} {{ 7 % 3 }} {{ -1 }}", ALL,
           "7 9 3 1 -1");
    expect("{{ 'a' ~ 1 ~ 'b' }} {{ 'x' if false else 'y' }} {{ 'x' if 1 }}{{ 'x' if 0 }}", ALL,
           "a1b y x");
    expect("{{ not true }} {{ true and 'b' }} {{ '' or 'c' }} {{ none }} {{ nothing }}", ALL,
           "False b c None ");
    expect("{{ 'b' in 'abc' }} {{ 'd' not in 'abc' }} {{ 'u' in ['u', 'v'] }}", ALL,
           "True True True");
    expect("{{ messages | length }} {{ messages[1:] | length }} {{ messages[-1].role }} "
           "{{ messages[:1][0]['content'] }}",
           ALL, "4 3 user Be brief.");
    expect("{{ ' a '.strip() }}|{{ ' a '.lstrip() }}|{{ 'Ab'.upper() }}|{{ 'abc'[1:] }}|{{ "
           "'abc'.startswith('ab') }}",
           ALL, "a|a |AB|bc|True");
    expect("{{ x is defined }} {{ x is not defined }} {{ messages is iterable }} {{ 1 is odd }}",
           ALL, "False True True True");
    expect("{{ tools | default('none') }} {{ \"it's\" }} {{ 'a\\n\\'b' }}", ALL, "none it's a\n'b");
    expect("{{ 1 < 2 }} {{ 2 <= 1 }} {{ 'a' == 'a' }} {{ 'a' != 'b' }}", ALL,
           "True False True True");
    expect("{{ 'tool_calls' in messages[0] }} {{ 'role' in messages[0] }} {{ messages[0].x is "
           "defined }}",
           ALL, "False True False");
}

static void test_tags(void **state)
{
    (void)state;
    expect("{% set a = 1 %}{% if a == 1 %}one{% elif a == 2 %}two{% else %}other{% endif %}", ALL,
           "one");
    expect("{% for m in messages %}{{ loop.index }}{{ ',' if not loop.last }}{% endfor %}", ALL,
           "1,2,3,4");
    expect("{% set a = 1 %}{% for m in messages %}{% set a = 2 %}{% endfor %}{{ a }}", ALL, "1");
    expect("{% set n = namespace(x=0) %}{% for m in messages %}{% set n.x = n.x + loop.index %}"
           "{% endfor %}{{ n.x }}",
           ALL, "10");
    expect("a {#- remark -#} b", ALL, "ab");
    expect("a\n{%- if true -%}\n b \n{%- endif -%}\n c", ALL, "abc");
    expect(
        "x{% if false %}{{ raise_exception('no') }}{% for m in nothing %}{% endfor %}{% endif %}y",
        ALL, "xy");
    expect("{% for m in messages[4:] %}never{% endfor %}end", ALL, "end");
}

static void test_refusals(void **state)
{
    (void)state;
    refuse("{{ strftime_now('%d') }}", MICA_E_UNSUPPORTED, "strftime_now");
    refuse("a\nb\n{% macro x() %}", MICA_E_UNSUPPORTED, "t:3:");
    refuse("{{ 'a' | tojson }}", MICA_E_UNSUPPORTED, "tojson");
    refuse("{% if true %}", MICA_E_FORMAT, "endif");
    refuse("{% for m in messages %}", MICA_E_UNSUPPORTED, "endfor");
    refuse("{% endfor %}", MICA_E_FORMAT, "ends nothing");
    refuse("{{ 'a", MICA_E_FORMAT, "does not end");
    refuse("{{ 1 + }}", MICA_E_UNSUPPORTED, "no expression");
    refuse("{{ 'a'.format(1) }}", MICA_E_UNSUPPORTED, "format");
    refuse("{{ messages }}", MICA_E_UNSUPPORTED, "printed");
    refuse("{{ 1 // 0 }}", MICA_E_UNSUPPORTED, "operator");
    refuse("{{ raise_exception('no tools') }}", MICA_E_USAGE, "no tools");
    refuse("{{ ((((((((((((((((((((((((((((((((((((1)))))))))))))))))))))))))))))))))))) }}",
           MICA_E_UNSUPPORTED, "nested");
    refuse("{% for a in messages %}{% for a in messages %}{% for a in messages %}{% for a in "
           "messages %}"
           "{% for a in messages %}{% for a in messages %}{% for a in messages %}{% for a in "
           "messages %}"
           "{% for a in messages %}{% for a in messages %}{% for a in messages %}{% for a in "
           "messages %}"
           "{{ a.role }}{% endfor %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}"
           "{% endfor %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}",
           MICA_E_UNSUPPORTED, "does not end");
}

static void test_out_of_memory(void **state)
{
    (void)state;
    mica_status st = MICA_E_NOMEM;
    for (uint64_t n = 1; st != MICA_OK && n < 10000; n++) {
        mica_err err = {0};
        mica_text out = {0};
        const mica_chat_input input = {.messages = TURNS, .count = 4, .bos = "<s>", .eos = "</s>"};
        mica_mem_fail_at(n);
        st = mica_chat_template_render("t", mica_chat_template_mixtral, &input, &out, &err);
        mica_mem_fail_at(0);
        assert_true(st == MICA_OK || st == MICA_E_NOMEM);
        mica_text_deinit(&out);
    }
    assert_int_equal(st, MICA_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mixtral),     cmocka_unit_test(test_published_forms),
        cmocka_unit_test(test_expressions), cmocka_unit_test(test_tags),
        cmocka_unit_test(test_refusals),    cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("chat_template", tests, NULL, NULL);
}
