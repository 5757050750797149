// make_sentence_variants.js - writes tests/golden/tokenizer/sentence_variants.json: small tokenizer.json
// files in SentencePiece's style with every spelling of its options, with what the reference library
// makes of them.
//
//   node make_sentence_variants.js > ../../tests/golden/tokenizer/sentence_variants.json
//
// The form is that of variants.json. Needs the npm package "tokenizers" (fetch.sh --reference).
'use strict';
const fs = require('fs');
const { Tokenizer } = require('tokenizers');

const S = '▁';
const prepend = { type: 'Prepend', prepend: S };
const replace = { type: 'Replace', pattern: { String: ' ' }, content: S };
const sequence = (...normalizers) => ({ type: 'Sequence', normalizers });
const metaspace = (prepend_scheme, split) => ({ type: 'Metaspace', replacement: S, prepend_scheme, split });
const token = (id, content, flags = {}) => ({ id, content, single_word: false, lstrip: false, rstrip: false,
  normalized: false, special: true, ...flags });
const decoders = [{ type: 'Replace', pattern: { String: S }, content: ' ' }, { type: 'ByteFallback' }, { type: 'Fuse' }];
const strip = { type: 'Strip', content: ' ', start: 1, stop: 0 };

function tokenizer({ normalizer = sequence(prepend, replace), pre = null, bytes = true, fuse = true, unknown = '<unk>', drop = [],
  added = [], strips = true, model = {} }) {
  const pieces = ['<unk>', '<s>', '</s>'];
  if (bytes) for (let b = 0; b < 256; b++) pieces.push(`<0x${b.toString(16).toUpperCase().padStart(2, '0')}>`);
  const merges = [[S, 't'], ['h', 'e'], [S + 't', 'he'], [S, 'a'], [S, S], [S + S, S + S], ['l', 'l'], ['o', S], ['<', 's'], ['n', 'd'], [S + 'a', 'nd']];
  pieces.push(S, ...'thealondwr<>s/.é🦊', ...merges.map((m) => m.join('')), 'Hello');
  const vocab = {};
  pieces.filter((p) => !drop.includes(p)).forEach((p, i) => (vocab[p] = i));
  return { version: '1.0', truncation: null, padding: null, added_tokens: [token(0, '<unk>'), token(1, '<s>'), token(2, '</s>'), ...added],
    normalizer, pre_tokenizer: pre, post_processor: null,
    decoder: { type: 'Sequence', decoders: strips ? [...decoders, strip] : decoders },
    model: { type: 'BPE', dropout: null, unk_token: unknown, continuing_subword_prefix: null, end_of_word_suffix: null,
      fuse_unk: fuse, byte_fallback: bytes, ignore_merges: false, vocab, merges, ...model } };
}

const texts = ['the and', ' the', '  the   and    ', '', ' ', 'Hello', 'Hello the', '<s>the</s>', '<s> the </s> and', 'a<s>the<s><s>x', 'x\ny\tz',
  'é è 🦊 🦁', '🦁🦁', 'xyz qq', '▁the', '<s>▁the', 'the▁and', '<x>the<x> and', 'the<x>', '<0x41>', '\u0000a'];
const variants = {
  prepend: [tokenizer({}), texts],
  replace_only: [tokenizer({ normalizer: sequence(replace) }), texts],
  replace_alone: [tokenizer({ normalizer: replace }), texts],
  metaspace_first: [tokenizer({ normalizer: null, pre: metaspace('first', false) }), texts],
  metaspace_always: [tokenizer({ normalizer: null, pre: metaspace('always', false) }), texts],
  metaspace_never: [tokenizer({ normalizer: null, pre: metaspace('never', false) }), texts],
  metaspace_first_split: [tokenizer({ normalizer: null, pre: metaspace('first', true) }), texts],
  metaspace_always_split: [tokenizer({ normalizer: null, pre: metaspace('always', true) }), texts],
  metaspace_old: [tokenizer({ normalizer: null, pre: { type: 'Metaspace', replacement: S, add_prefix_space: true } }), texts],
  no_strip: [tokenizer({ strips: false }), texts],
  no_bytes: [tokenizer({ bytes: false }), texts],
  no_bytes_unfused: [tokenizer({ bytes: false, fuse: false }), texts],
  no_bytes_no_unknown: [tokenizer({ bytes: false, unknown: null }), texts],
  some_bytes: [tokenizer({ drop: ['<0xA6>', '<0x78>'] }), texts],
  added: [tokenizer({ added: [token(600, '<x>', { special: false })] }), texts],
  added_normalized: [tokenizer({ added: [token(600, '<x>', { special: false, normalized: true })] }), texts],
  added_normalized_metaspace: [tokenizer({ normalizer: null, pre: metaspace('first', false), added: [token(600, '<x>', { special: false, normalized: true })] }), texts],
  added_strip: [tokenizer({ normalizer: null, pre: metaspace('first', false), added: [token(600, '<x>', { lstrip: true, rstrip: true })] }), texts],
  ignore_merges: [tokenizer({ model: { ignore_merges: true } }), texts],
};

async function main() {
  const out = [];
  for (const [name, [json, list]] of Object.entries(variants)) {
    for (const added of json.added_tokens)
      if (!(added.content in json.model.vocab)) added.id = json.model.vocab[added.content] = Object.keys(json.model.vocab).length;
    const t = Tokenizer.fromString(JSON.stringify(json));
    const cases = [];
    for (const text of list) {
      const ids = (await t.encode(text, null, { addSpecialTokens: false })).getIds();
      cases.push({ text, ids, decoded: await t.decode(ids, false), decoded_skip_special: await t.decode(ids, true) });
    }
    out.push({ name, tokenizer: json, cases: cases.filter((c) => !c.text.includes('\u0000')) });
  }
  fs.writeFileSync(1, '[\n' + out.map((v) => JSON.stringify(v)).join(',\n') + '\n]\n');
}
main();
