/* byte_alphabet.h - the 256 characters in which byte-level vocabularies spell bytes.
 *
 *     byte   00..20   21..7E   7F..A0     A1..AC   AD    AE..FF
 *     char   100..120 itself   121..142   itself   143   itself
 *
 * Files that hold a vocabulary are JSON, so a byte that is not printable (space, control,
 * half of a UTF-8 sequence) is spelled with a letter from U+0100 on: " the" is "Ġthe".
 * Same table as pre_tokenizers/byte_level.rs (bytes_char) of Hugging Face tokenizers. */
#ifndef MICA_TEXT_BYTE_ALPHABET_H
#define MICA_TEXT_BYTE_ALPHABET_H

#include <stdint.h>

static inline uint32_t mica_byte_to_symbol(uint8_t byte)
{
    if (byte <= 0x20)
        return 0x100u + byte;
    if (byte >= 0x7F && byte <= 0xA0)
        return 0x121u + (byte - 0x7Fu);
    return byte == 0xAD ? 0x143u : byte;
}

/* -1: the character spells no byte. */
static inline int mica_symbol_to_byte(uint32_t symbol)
{
    if (symbol >= 0x100 && symbol <= 0x120)
        return (int)(symbol - 0x100);
    if (symbol >= 0x121 && symbol <= 0x142)
        return (int)(symbol - 0x121 + 0x7F);
    if (symbol == 0x143)
        return 0xAD;
    if (symbol > 0xFF || mica_byte_to_symbol((uint8_t)symbol) != symbol)
        return -1;
    return (int)symbol;
}

#endif
