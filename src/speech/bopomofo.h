/* bopomofo.h - syllables written in bopomofo to pinyin: ㄓㄨㄥ4 -> zhong, 4.
 *
 * By rule, for all 424 syllables of g2pW's table; what is pinyin already is taken as it is. */
#ifndef MICA_SPEECH_BOPOMOFO_H
#define MICA_SPEECH_BOPOMOFO_H

#include <stdbool.h>
#include <stddef.h>

#define MICA_PINYIN_MAX 8 /* bytes of a syllable with its NUL */

/* `text` ends in a tone, 1 to 5. ü is "v". false: neither bopomofo nor pinyin. */
bool mica_bopomofo_read(const char *text, size_t size, char pinyin[MICA_PINYIN_MAX], int *tone);

#endif
