/* speech_tables.S - the binary tables as read-only data (speech_tables.h).
   MICA_TABLES is their folder. On macOS C names carry an underscore and sections other names. */
#ifdef __APPLE__
#define NAME(x) _##x
    .section __TEXT,__const
#else
#define NAME(x) x
    .section .rodata
#endif

#define TABLE(name, file)                  \
    .balign 16;                            \
    .globl NAME(mica_speech_##name##_begin); \
    .globl NAME(mica_speech_##name##_end);   \
    NAME(mica_speech_##name##_begin): ;    \
    .incbin file;                          \
    NAME(mica_speech_##name##_end): ;      \
    .byte 0

#ifndef __APPLE__
    .hidden mica_speech_english_begin
    .hidden mica_speech_english_end
    .hidden mica_speech_letters_begin
    .hidden mica_speech_letters_end
    .hidden mica_speech_chinese_begin
    .hidden mica_speech_chinese_end
    .hidden mica_speech_hmm_begin
    .hidden mica_speech_hmm_end
    .hidden mica_speech_traditional_begin
    .hidden mica_speech_traditional_end
#endif

TABLE(english, "english.bin")
TABLE(letters, "letters.bin")
TABLE(chinese, "chinese.bin")
TABLE(hmm, "hmm.bin")
TABLE(traditional, "traditional.bin")

#if defined(__linux__) && defined(__ELF__)
    .section .note.GNU-stack,"",%progbits
#endif
