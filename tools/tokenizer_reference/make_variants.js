// make_variants.js - writes tests/golden/tokenizer/variants.json: small tokenizer.json files that use
// the options the Qwen files leave at their defaults, with what the reference library makes of them.
//
//   node make_variants.js > ../../tests/golden/tokenizer/variants.json
//
//   [{ "name", "tokenizer": {a whole tokenizer.json},
//      "cases": [{"text", "ids", "decoded", "decoded_skip_special"}] }]
//
// Needs the npm package "tokenizers" (fetch.sh --reference).
'use strict';
const fs = require('fs');
const { Tokenizer } = require('tokenizers');
const { isTooRecent, RECENT_LETTERS, RECENT_NUMBERS } = require('./unicode.js');

const QWEN = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

function symbol(b) {
  if (b <= 0x20) return String.fromCodePoint(0x100 + b);
  if (b >= 0x7f && b <= 0xa0) return String.fromCodePoint(0x121 + b - 0x7f);
  return String.fromCodePoint(b === 0xad ? 0x143 : b);
}
const split = (regex) => ({ type: 'Split', pattern: { Regex: regex }, behavior: 'Isolated', invert: false });
const byteLevel = (use_regex) => ({ type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex });
const sequence = (...parts) => ({ type: 'Sequence', pretokenizers: [...parts, byteLevel(false)] });
const token = (id, content, flags = {}) => ({ id, content, single_word: false, lstrip: false, rstrip: false,
  normalized: false, special: false, ...flags });

function tokenizer({ extra = [], merges = [], added = [], normalizer = { type: 'NFC' }, pre = sequence(split(QWEN)), model = {} }) {
  const vocab = {};
  for (let b = 0; b < 256; b++) vocab[symbol(b)] = b;
  extra.forEach((t, i) => (vocab[t] = 256 + i));
  return { version: '1.0', truncation: null, padding: null, added_tokens: added, normalizer, pre_tokenizer: pre,
    post_processor: null, decoder: { ...byteLevel(true), add_prefix_space: true }, model: { type: 'BPE', dropout: null, unk_token: null,
      continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: false, byte_fallback: false,
      ignore_merges: false, vocab, merges, ...model } };
}

const spaced = ['a<S>b', 'a <S> b', ' \u3000\n<S>\t\u00a0 b', '<S><S>', '<S> <S>', 'x<S>', '<S>y', 'é<S>\u0301', '1<S>2', '_<S>', '(<S>)', '\u200d<S>', 'Ⓐ<S>', '½<S>',
  'ⅷ<S>', ' <S>  <S>  ', '\u180e<S>\u180e', '<S', 'S>'];
const words = ['the then', ' the', 'hello there, the other', 'thethe', 'aaaa', 'abcabcab', 'abc', 'bcab', ''];
const scripts = ["It's 1234567 we'LL", 'abc漢字かなカナ def', 'HelloWorld fooBar ABCdef', 'x\n\n  y \r\n z', "don't 'Tis 'ſ", '  a   b    c', 'นี้ ภาษาไทย', 'a1b22c333d4444',
  'e\u0301 é \u212b', '!!!???  ...', 'xxaxxbxx', '\u00a0\u2003x', 'Ünïcödé ÀÉÎ', '١٢٣ ⅷ ½', '🙂👍🏽', ''];

// A letter joins the "a" before it, a number is a piece of its own. Whether it was taken for one shows
// in the ids when "a" merges with its first byte, and its last byte with the first of the next.
const edges = (ranges) => ranges.flatMap(([lo, hi]) => [lo - 1, lo, hi, hi + 1]).filter((c) => !isTooRecent(c))
  .map((c) => String.fromCodePoint(c));
const recent = [edges(RECENT_LETTERS).map((c) => `a${c}a`).join(' '), edges(RECENT_NUMBERS).map((c) => c + c).join(' ')];
const recentMerges = [...new Set(['a á', 'a ê', 'a ð', 'a ñ', ...edges(RECENT_NUMBERS).map((c) => {
  const b = Buffer.from(c);
  return `${symbol(b[b.length - 1])} ${symbol(b[0])}`;
})])];

const variants = {
  recent_unicode: [tokenizer({ merges: recentMerges, extra: recentMerges.map((m) => m.replace(' ', '')) }), recent],
  lstrip: [tokenizer({ added: [token(256, '<S>', { lstrip: true })] }), spaced],
  rstrip: [tokenizer({ added: [token(256, '<S>', { rstrip: true })] }), spaced],
  strip_both: [tokenizer({ added: [token(256, '<S>', { lstrip: true, rstrip: true, special: true })] }), spaced],
  single_word: [tokenizer({ added: [token(256, '<S>', { single_word: true })] }), spaced],
  single_word_strip: [tokenizer({ added: [token(256, 'S', { single_word: true, lstrip: true }), token(257, 'a')] }), spaced],
  overlap: [tokenizer({ added: [token(256, '<a'), token(257, '<a>'), token(258, '<a><b>'), token(259, 'b>x'), token(260, '>'), token(261, 'é')] }),
    ['<a', '<a>', '<a><b>', '<a><b', '<a><b>x', '<b>x', '<a<a>', 'é', 'e\u0301', '>>', '<a><a><b>']],
  normalized: [tokenizer({ added: [token(256, 'e\u0301t', { normalized: true }), token(257, 'Å', { normalized: true, single_word: true }), token(258, 'e\u0301<'),
    token(259, 'Å<', { special: true })] }), ['été', 'e\u0301te\u0301', 'Å', '\u212b', 'A\u030a', 'Å<', 'e\u0301<', 'é<', ' Å ', 'xÅ', 'Å\u0301']],
  odd_spelling: [tokenizer({ added: [token(256, 'a b'), token(257, 'Ġx', { special: true }), token(258, 'é字'), token(259, 'Ġé')] }), ['a b', 'Ġx', 'é字', 'Ġé y', 'a  b']],
  in_vocabulary: [tokenizer({ extra: ['th', 'the', 'Ġthe'], merges: [['t', 'h'], ['th', 'e'], ['Ġ', 'the']], added: [token(257, 'the'), token(258, 'Ġthe', { special: true })] }), words],
  ignore_merges: [tokenizer({ extra: ['th', 'the', 'Ġthe', 'aaaa', 'hello'], merges: [['t', 'h']], model: { ignore_merges: true } }), words],
  unreachable: [tokenizer({ extra: ['th', 'the', 'Ġthe', 'aaaa', 'hello'], merges: [['t', 'h']] }), words],
  stale_results: [tokenizer({ extra: ['bc', 'abc', 'ab', 'ca', 'aa', 'aaa'], merges: ['b c', 'a bc', 'a b', 'ab c', 'c a', 'a a', 'aa a', 'a aa'] }),
    [...words, 'abcabcabcabc', 'cabcab', 'aaaaaaa', 'aabcaabc', 'bcabca']],
  same_result: [tokenizer({ extra: ['ab', 'bc', 'abc'], merges: ['a bc', 'ab c', 'a b', 'b c'] }), [...words, 'ababcbc', 'aabbcc', 'abcbcabc']],
  repeated_pair: [tokenizer({ extra: ['ab', 'bc', 'abc'], merges: ['a b', 'b c', 'a b', 'ab c'] }), [...words, 'abcbc', 'ababc']],
  byte_level_regex: [tokenizer({ pre: byteLevel(true) }), scripts],
  byte_level_only: [tokenizer({ pre: byteLevel(false), extra: ['th', 'the', 'eĠ', 'Ġth'], merges: [['t', 'h'], ['th', 'e'], ['e', 'Ġ'], ['Ġ', 'th']] }), [...words, ...scripts]],
  three_splits: [tokenizer({ pre: sequence(split('\\p{N}{1,3}'), split('[一-龥぀-ゟ゠-ヿ]+'), split("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")) }), scripts],
  llama3: [tokenizer({ pre: sequence(split("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")) }), scripts],
  cased: [tokenizer({ pre: sequence(split("[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")) }), scripts],
  empty_matches: [tokenizer({ pre: sequence(split('x*')), extra: ['xx', 'ab', 'ax'], merges: ['x x', 'a b', 'a x'] }), scripts.concat('axxb', 'ab', 'xab')],
  look_around: [tokenizer({ pre: sequence(split('(?<=a)b|(?=c)|c(?!d)')), extra: ['ab', 'bc', 'cd', 'aa'], merges: ['a b', 'b c', 'c d', 'a a'] }), [...words, 'abcd', 'aabbccdd', 'cdcd']],
  no_normalizer: [tokenizer({ normalizer: null }), scripts],
  normalizer_sequence: [tokenizer({ normalizer: { type: 'Sequence', normalizers: [{ type: 'NFC' }] } }), scripts],
};

async function main() {
  const out = [];
  for (const [name, [json, texts]] of Object.entries(variants)) {
    // Every pair of byte tokens gets a chance to merge only where a variant says so; to make the
    // pieces visible in the ids, variants without merges join any two equal-class letters.
    if (json.model.merges.length === 0) {
      for (const pair of ['a b', 'l l', 'o r', 'Ġ a', 'Ġ Ġ', '1 2', '3 4', '. .', 'Ċ Ċ', "' s", 'Ã ©', 'x Ċ', 'B a', 'o W', '! ?', 'e Ì', '< S', 'S >']) {
        const joined = pair.replace(' ', '');
        if (!(joined in json.model.vocab)) json.model.vocab[joined] = 1000 + json.model.merges.length;
        json.model.merges.push(pair);
      }
    }
    let next = Math.max(...Object.values(json.model.vocab)) + 1;
    for (const added of json.added_tokens) { // in the vocabulary too: the library keeps such ids
      if (!(added.content in json.model.vocab)) json.model.vocab[added.content] = next++;
      added.id = json.model.vocab[added.content];
    }
    const t = Tokenizer.fromString(JSON.stringify(json));
    const cases = [];
    for (const text of texts) {
      const ids = (await t.encode(text, null, { addSpecialTokens: false })).getIds();
      cases.push({ text, ids, decoded: await t.decode(ids, false), decoded_skip_special: await t.decode(ids, true) });
    }
    out.push({ name, tokenizer: json, cases });
  }
  fs.writeFileSync(1, '[\n' + out.map((v) => JSON.stringify(v)).join(',\n') + '\n]\n');
}
main();
