/* example_text.c - a conversation with libmica: one question, its answer as it is written, and a second question
 * that only reads what is new.
 *
 *     cc example_text.c $(pkg-config --cflags --libs mica) -o example_text
 *     ./example_text path/to/model "What is a computer?" "And a keyboard?" */
#include <mica/mica.h>

#include <stdio.h>

static bool print(void *user, const mica_text_token *token)
{
    (void)user;
    return fputs(token->text, stdout) != EOF && fflush(stdout) != EOF; /* false ends the answer */
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: example_text MODEL QUESTION...\n");
        return 2;
    }
    mica_engine_options engine_options = {.size = sizeof engine_options, .model = argv[1]};
    mica_text_options options = {.size = sizeof options, .greedy = true, .token = print};
    mica_message turns[64] = {{0}};
    mica_completion *answers[32] = {0}; /* own the texts that later questions refer to */
    mica_engine *engine = NULL;
    mica_session *session = NULL;
    int count = 0;

    mica_status status = mica_engine_open(&engine, &engine_options);
    const char *message = engine ? mica_engine_errmsg(engine) : "no memory";
    if (!status) {
        status = mica_session_open(&session, engine);
        message = session ? mica_session_errmsg(session) : "no memory";
    }
    for (; !status && count < argc - 2 && count < 32; count++) {
        mica_text_answer answer = {.size = sizeof answer};
        turns[2 * count] = (mica_message){"user", argv[2 + count]};
        options.messages = turns;
        options.message_count = 2 * count + 1;
        status = mica_text_generate(session, &options, &answers[count]);
        message = mica_session_errmsg(session);
        if (!status)
            status = mica_completion_get(answers[count], 0, &answer);
        turns[2 * count + 1] = (mica_message){"assistant", answer.text};
        fputs("\n", stdout);
    }
    if (status)
        fprintf(stderr, "example_text: %s\n", message);

    for (int i = 0; i < count; i++)
        mica_completion_close(&answers[i]);
    mica_session_close(&session);
    mica_engine_close(&engine);
    return status ? 1 : 0;
}
