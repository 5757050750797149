// consumer.cpp MODEL - a C++ program against the installed library: what the examples of docs/ do not show.
//
//     a failure and its text; NULL handles; options of a program that was compiled before fields were
//     added at their end; a picture's bytes to the caller instead of a file
//
// Prints each expectation that does not hold; status 1 if there is any.
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <mica/mica.h>
#include <string>

static int failures;

static void expect(bool holds, const char *what)
{
    if (holds)
        return;
    std::fprintf(stderr, "consumer: %s\n", what);
    failures++;
}

static bool keep(void *user, const void *data, std::size_t size)
{
    static_cast<std::string *>(user)->append(static_cast<const char *>(data), size);
    return true;
}

static bool refuse(void *, const void *, std::size_t)
{
    return false;
}

static void check_failure()
{
    mica_engine_options options{};
    mica_engine *engine = nullptr;
    options.size = sizeof options;
    options.model = "no-such-model";
    expect(mica_engine_open(&engine, &options) == MICA_E_MISSING, "a model that is not there");
    expect(std::strstr(mica_engine_errmsg(engine), "no-such-model"), "its name in the text");
    mica_engine_close(&engine);
    expect(!engine, "closing clears the pointer");
    mica_engine_close(&engine);
    options.size = 0;
    expect(mica_engine_open(&engine, &options) == MICA_E_USAGE, "options without a size");
    mica_engine_close(&engine);
}

static void check_null()
{
    std::size_t count = 1;
    mica_run_stats stats{};
    expect(mica_image_count(nullptr) == 0 && mica_image_width(nullptr) == 0, "no picture");
    expect(!mica_image_rgb(nullptr, 0) && !mica_image_recipe(nullptr, 0), "no pixels, no recipe");
    expect(!mica_speech_samples(nullptr, &count) && count == 0, "no samples");
    expect(mica_completion_count(nullptr) == 0, "no answers");
    expect(mica_session_stats(nullptr, &stats) == MICA_E_USAGE, "no session");
    expect(!*mica_engine_notes(nullptr) && !*mica_session_notes(nullptr), "no notes");
}

static void check_bytes(const mica_image *image)
{
    std::string bytes;
    char message[256] = "";
    expect(mica_image_encode(image, 0, "x.png", keep, &bytes, message, sizeof message) == MICA_OK,
           message);
    expect(bytes.size() > 8 && bytes.compare(0, 8, "\x89PNG\r\n\x1a\n") == 0, "a PNG");
    expect(bytes.find("a red fox") != std::string::npos, "its recipe inside");
    expect(mica_image_encode(image, 0, "x.jpg", refuse, nullptr, nullptr, 0) == MICA_E_IO,
           "a receiver that stops");
    expect(mica_image_encode(image, 1, "x.png", keep, &bytes, nullptr, 0) == MICA_E_USAGE,
           "an index out of range");
    expect(mica_image_encode(image, 0, "x.gif", keep, &bytes, message, sizeof message) ==
               MICA_E_USAGE,
           "another kind");
    expect(std::strstr(message, ".webp"), "what there is instead");
    expect(mica_image_encode(image, 0, "x.png", nullptr, nullptr, nullptr, 0) == MICA_E_USAGE,
           "nobody to write to");
}

static void check_picture(const char *model)
{
    mica_engine_options engine_options{};
    mica_engine *engine = nullptr;
    mica_session *session = nullptr;
    mica_image *image = nullptr;
    engine_options.size = offsetof(mica_engine_options, synthetic);
    engine_options.model = model;
    engine_options.synthetic = "not read: it lies behind `size`";
    expect(mica_engine_open(&engine, &engine_options) == MICA_OK, mica_engine_errmsg(engine));
    expect(mica_session_open(&session, engine) == MICA_OK, mica_session_errmsg(session));
    mica_image_options options{};
    options.size = offsetof(mica_image_options, solver);
    options.prompt = "a red fox";
    options.width = options.height = 32;
    options.steps = 1;
    options.solver = static_cast<mica_solver>(99);
    expect(mica_image_generate(session, &options, &image) == MICA_OK, mica_session_errmsg(session));
    check_bytes(image);
    options.size = sizeof options;
    mica_image *refused = nullptr;
    expect(mica_image_generate(session, &options, &refused) == MICA_E_USAGE && !refused,
           "a solver that is none");
    mica_session_close(&session);
    mica_engine_close(&engine);
    expect(mica_image_rgb(image, 0) != nullptr, "results stay");
    mica_image_close(&image);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    check_failure();
    check_null();
    check_picture(argv[1]);
    return failures ? 1 : 0;
}
