/* example.c - text to picture with libmica.
 *
 *     cc example.c $(pkg-config --cflags --libs mica) -o example
 *     ./example path/to/model "a red fox in the snow" fox.png */
#include <mica/mica.h>

#include <stdio.h>

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: example MODEL PROMPT OUTPUT\n");
        return 2;
    }
    mica_engine_options engine_options = {.size = sizeof engine_options, .model = argv[1]};
    mica_image_options image_options = {
        .size = sizeof image_options, .prompt = argv[2], .width = 256, .height = 256, .steps = 8};
    mica_engine *engine = NULL;
    mica_session *session = NULL;
    mica_image *image = NULL;
    char message[512] = "";

    mica_status status = mica_engine_open(&engine, &engine_options);
    if (status)
        snprintf(message, sizeof message, "%s", engine ? mica_engine_errmsg(engine) : "no memory");
    if (!status)
        status = mica_session_open(&session, engine);
    if (!status)
        status = mica_image_generate(session, &image_options, &image);
    if (status && session)
        snprintf(message, sizeof message, "%s", mica_session_errmsg(session));
    if (!status)
        status = mica_image_write(image, 0, argv[3], message, sizeof message);
    if (status)
        fprintf(stderr, "example: %s\n", message);

    mica_image_close(&image);
    mica_session_close(&session);
    mica_engine_close(&engine);
    return status ? 1 : 0;
}
