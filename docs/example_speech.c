/* example_speech.c - a text said with the voice of a recording.
 *
 *     cc example_speech.c $(pkg-config --cflags --libs mica) -o example_speech
 *     ./example_speech path/to/model voice.wav "Hello there." hello.wav */
#include <mica/mica.h>

#include <stdio.h>

/* Sound comes sentence by sentence; a player would take it here. */
static bool hear(void *user, const mica_speech_chunk *chunk)
{
    size_t *heard = user;
    *heard += chunk->count;
    fprintf(stderr, "sentence %d: %.2f s\n", chunk->sentence,
            (double)chunk->count / (double)chunk->rate);
    return true;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: example_speech MODEL VOICE TEXT OUTPUT\n");
        return 2;
    }
    size_t heard = 0;
    const mica_voice_input voice = {.path = argv[2]};
    mica_engine_options engine_options = {.size = sizeof engine_options, .model = argv[1]};
    mica_speech_options options = {.size = sizeof options,
                                   .text = argv[3],
                                   .voices = &voice,
                                   .voice_count = 1,
                                   .chunk = hear,
                                   .chunk_user = &heard};
    mica_engine *engine = NULL;
    mica_session *session = NULL;
    mica_speech *speech = NULL;
    char message[512] = "";

    mica_status status = mica_engine_open(&engine, &engine_options);
    if (status)
        snprintf(message, sizeof message, "%s", engine ? mica_engine_errmsg(engine) : "no memory");
    if (!status)
        status = mica_session_open(&session, engine);
    if (!status)
        status = mica_speech_generate(session, &options, &speech);
    if (status && session)
        snprintf(message, sizeof message, "%s", mica_session_errmsg(session));
    if (!status)
        status = mica_speech_write(speech, argv[4], false, message, sizeof message);
    if (status)
        fprintf(stderr, "example_speech: %s\n", message);
    else
        printf("%s: %.2f s\n", argv[4], (double)heard / mica_speech_rate(speech));

    mica_speech_close(&speech);
    mica_session_close(&session);
    mica_engine_close(&engine);
    return status ? 1 : 0;
}
