/* convert_support.c - see convert_support.h. */
#include "convert_support.h"

#include "base/file.h"

#include <stdio.h>
#include <string.h>

mica_status convert_run(const mica_convert_request *request, mica_convert_progress_fn progress,
                        void *user, mica_err *err)
{
    mica_convert_plan plan;
    mica_convert_folder folder;
    bool is_folder = false;
    mica_status st = mica_convert_check(request, &is_folder, err);
    if (st)
        return st;
    if (is_folder) {
        st = mica_convert_folder_make(&folder, request, false, err);
        if (st)
            return st;
        st = mica_convert_folder_run(&folder, false, progress, user, err);
        mica_convert_folder_deinit(&folder);
        return st;
    }
    st = mica_convert_plan_make(&plan, request, err);
    if (st)
        return st;
    st = mica_convert_run(&plan, NULL, progress, user, err);
    mica_convert_plan_deinit(&plan);
    return st;
}

static void run_ok(const mica_convert_request *request)
{
    mica_err err = {0};
    if (convert_run(request, NULL, NULL, &err) != MICA_OK)
        fail_msg("%s to %s as %s: %s", request->input, request->output, request->type, err.text);
}

void convert_ok(const char *from, const char *to, const char *type, uint64_t shard)
{
    run_ok(&(mica_convert_request){.input = from, .output = to, .type = type, .shard = shard});
}

void convert_voice_ok(const char *semantic, const char *synthesizer, const char *to,
                      const char *type)
{
    run_ok(&(mica_convert_request){
        .input = semantic, .synthesizer = synthesizer, .output = to, .type = type});
}

size_t convert_count(const char *folder)
{
    char **names = NULL;
    size_t count = 0;
    mica_err err = {0};
    assert_int_equal(mica_path_list(folder, &names, &count, &err), MICA_OK);
    mica_path_list_free(&names, count);
    return count;
}

void convert_fails(const mica_convert_request *request, const char *text, const char *place)
{
    mica_err err = {0};
    const size_t before = place ? convert_count(place) : 0;
    assert_true(convert_run(request, NULL, NULL, &err) != MICA_OK);
    if (!strstr(err.text, text))
        fail_msg("%s\n  expected %s", err.text, text);
    if (place)
        assert_int_equal(convert_count(place), before);
}

char *convert_read(const char *folder, const char *name)
{
    char *path = mica_path_join(folder, name), *data = NULL;
    size_t size = 0;
    mica_err err = {0};
    if (mica_file_read(path, 1 << 22, &data, &size, &err) != MICA_OK)
        fail_msg("%s", err.text);
    mica_mem_free(path);
    return data;
}
