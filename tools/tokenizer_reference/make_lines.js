// make_lines.js - writes tests/golden/tokenizer/lines.txt: what the tokenizer is compared on.
//
//   node make_lines.js > ../../tests/golden/tokenizer/lines.txt
//
// Deterministic: hand-written sentences and code (sentences.txt, code.txt), each in several
// disguises, and generated lines for the places where tokenizers differ: contractions, white space,
// emoji, combining marks, control characters, special tokens inside text, bytes that are not UTF-8,
// every Unicode block. Random choices come from one linear congruential sequence.
//
// Code points on which Unicode versions disagree (assigned after Unicode 16, or combining after
// Unicode 9, where the reference's normaliser stands) are left out of the random lines; the letters
// of Unicode 15 and 16 are in, because the tokenizer carries them itself.
'use strict';
const fs = require('fs');
const path = require('path');
const { unescapeLine, escapeBytes } = require('./escape.js');
const { isTooRecent } = require('./unicode.js');

const lines = new Map(); // escaped spelling -> true, in order
function add(content) {
  const bytes = typeof content === 'string' ? Buffer.from(content, 'utf8') : content;
  const spelled = escapeBytes(bytes);
  if (!unescapeLine(spelled).equals(bytes)) throw new Error('escape does not round-trip');
  lines.set(spelled, true);
}

let state = 20260101;
function random(n) {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 4294967296) * n);
}
const pick = (list) => list[random(list.length)];
const many = (n, make) => Array.from({ length: n }, make).join('');

function load(name) {
  return fs.readFileSync(path.join(__dirname, name), 'utf8').split('\n').filter((l) => l !== '')
    .map((l) => unescapeLine(l).toString('utf8'));
}
const sentences = load('sentences.txt');
const code = load('code.txt');

// ---- sentences and code, in disguises ----
const specials = ['<|endoftext|>', '<|im_start|>', '<|im_end|>', '<|vision_start|>', '<|vision_end|>',
  '<|image_pad|>', '<|video_pad|>', '<tool_call>', '</tool_call>', '<|fim_prefix|>', '<|file_sep|>',
  '<|box_start|>', '<|object_ref_end|>', '<|quad_end|>', '<think>', '</think>', '<tool_response>',
  '</tool_response>', '<|repo_name|>', '<|vision_pad|>'];
add('');
for (const s of [...sentences, ...code]) {
  add(s);
  add(s.normalize('NFD'));
  add(s.normalize('NFKD'));
  add(s.toUpperCase());
  add('  ' + s.toLowerCase() + ' \n');
  add(s.split(' ').reverse().join('  '));
  add(s.split(' ').join('\u3000'));
  add(`<|im_start|>user\n${s}<|im_end|>\n<|im_start|>assistant\n`);
  const cut = random([...s].length);
  add([...s].slice(0, cut).join('') + pick(specials) + [...s].slice(cut).join(''));
  add([...s].join(pick(['\u200d', '\u00ad', '\u0301', '-', '1', "'s", '\n'])));
}

// ---- contractions ----
const suffixes = ['s', 't', 're', 've', 'm', 'll', 'd', 'S', 'T', 'RE', 'Ve', 'vE', 'M', 'LL', 'lL',
  'D', 'ſ', 'ſx', 'st', 'ment', 'x', 'ß', 'ﬆ', 'K'];
for (const before of ['it', 'IT', '猫', '7', ' ', '', '!', 'e\u0301', "'"])
  for (const suffix of suffixes) {
    add(`${before}'${suffix}`);
    add(`${before}'${suffix} ${before}’${suffix}${pick([' ', '.', '\n', "'"])}`);
  }

// ---- white space ----
const spaces = [' ', '  ', '\t', '\n', '\r', '\r\n', '\v', '\f', '\u00a0', '\u0085', '\u1680', '\u180e',
  '\u2003', '\u2028', '\u2029', '\u202f', '\u205f', '\u3000', '\u200b', '\u2060', '\ufeff', '\u001c',
  '\u001f'];
for (const a of spaces) {
  add(a);
  add(`x${a}`);
  add(`${a}y`);
  for (const b of spaces) add(`x${a}${b}y${b}${a}!`);
}
for (let i = 0; i < 120; i++)
  add(many(6, () => many(random(5), () => pick(spaces)) + pick(['a', '字', '1', '!', '?!', 'é', '🙂', ''])));

// ---- emoji ----
const people = ['👩', '👨', '🧑', '👧', '👦', '👮', '🏃'];
const skins = ['', '🏻', '🏼', '🏽', '🏾', '🏿'];
const things = ['🚀', '💻', '🎨', '⚕️', '✈️', '🌾', '🍳', '🔬', '❤️', '⚖️', '♀️', '♂️'];
for (let i = 0; i < 80; i++)
  add(many(3, () => pick(people) + pick(skins) + '\u200d' + pick(things) + pick([' ', '', 'x'])));
for (const s of ['👨‍👩‍👧‍👦', '🇫🇷🇩🇪🇯🇵', '🇫 🇷', '1️⃣2️⃣#️⃣*️⃣', '🏴󠁧󠁢󠁳󠁣󠁴󠁿 🏴‍☠️', '❤ ❤️ ❤︎ ♥️', '🫠🫱🏽‍🫲🏿🪿🫨', '☺️☹️✌🏽☝🏿',
  '🦊🌸🍣🏯', '™️©️®️‼️⁉️', '👁️‍🗨️', '\u200d🙂\u200d', '\ufe0f🙂\ufe0f\ufe0f'])
  for (const wrap of [(x) => x, (x) => `a ${x} b`, (x) => x + x, (x) => `字${x}1`]) add(wrap(s));

// ---- combining marks and normal forms ----
const bases = [...'aeiouncyAEIOUsSzZ가각각한कदநകဗกข\u05e9\u05d1\u0627\u0628αωΑΩиИK\u212a\u212b\u2126'];
const marks = [...'\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0323\u0327\u0328\u031b\u0331\u0345\u034f\u0338\u093c\u094d\u09bc\u05b0\u05bc\u05c1\u05c2\u064b\u0651\u0653\u0654\u3099\u309a\u1161\u1175\u11a8\u11c2\u0e33\u0e48\u0f71\u0f72\u0f74\u20d2'];
for (let i = 0; i < 160; i++)
  add(many(8, () => pick(bases) + many(random(4), () => pick(marks)) + pick(['', '', ' '])));
for (const s of ['Å Å Å', 'Ω Ω', 'K K', '豈更車賈滑串句龜', '\uf900\ufa10\ufa12\u{2f800}\u{2fa1d}', 'ﬀﬁﬂﬃﬄﬅﬆ',
  '\u0958\u0959\u09dc\u0a33\u0b5c\u0f43\u0f69', '\u0915\u093c \u0921\u093c', '\u1100\u1161\u11a8\u1100\u1161 \uac00\u11a8',
  '\u1112\u119e\u11ab \u115f\u1160 \u3131\u314f\uffa1', 'q\u0307\u0323 q\u0323\u0307 \u1e0b\u0323', '\u0344 \u0340\u0341\u0343\u0374\u037e\u0387',
  '\u1fef\u1ffd\u2000\u2001\u2329\u232a', '\u0301', ' \u0301', 'a\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301', '\u2adc \ufb1d \ufb2a\ufb2b\ufb2c\ufb2d',
  '\u{1d15e}\u{1d15f}\u{1d1bb}', '\u{1109a}\u{1109c} \u{110a5}\u{110ba}', 'が か\u3099 ガ カ\u3099 ｶﾞ', '\u0b47\u0b3e\u0b47\u0b56 \u0bc6\u0bbe \u0dd9\u0dcf\u0dca'])
  { add(s); add(s.normalize('NFC')); add(s.normalize('NFD')); add('x' + s + '<|im_end|>' + s); }

// ---- control characters ----
for (let c = 0; c < 0xa0; c++)
  if (c < 0x20 || c >= 0x7f) {
    const ch = String.fromCodePoint(c);
    add(`a${ch}b ${ch}${ch} 1${ch}`);
  }
for (const c of [0xad, 0x61c, 0x200c, 0x200e, 0x200f, 0x202a, 0x202e, 0x2066, 0x2069, 0xfff9, 0xfffc, 0xfffd,
  0xfdd0, 0xfffe, 0xffff, 0x1fffe, 0xe000, 0xf8ff, 0xe0001, 0xe0041, 0xe0100, 0xf0000, 0x10ffff])
  add(`a${String.fromCodePoint(c)}b ${String.fromCodePoint(c)}`);

// ---- special tokens inside text ----
for (const s of specials)
  for (const wrap of [(x) => x, (x) => ` ${x} `, (x) => `a${x}b${x}`, (x) => x + x, (x) => x.toUpperCase(),
    (x) => x.slice(0, -1), (x) => x.slice(1), (x) => `<${x}>`, (x) => x.replace('|', '| '), (x) => `e${x}\u0301`])
    add(wrap(s));
for (let i = 0; i < 60; i++)
  add(many(5, () => pick(specials).slice(random(3), 4 + random(14)) + pick(['', ' ', 'x', '\n', '<', '|>'])));

// ---- not UTF-8 ----
const broken = ['80', 'bf', 'c0', 'c0af', 'c1bf', 'c2', 'c3', 'e0', 'e080', 'e080af', 'e09f80', 'e2', 'e282',
  'e28228', 'eda080', 'edbfbf', 'eda0bdedb880', 'f0', 'f09f', 'f09f98', 'f08080af', 'f08fbfbf', 'f4908080',
  'f5808080', 'f8888080', 'fc84808080', 'fe', 'ff', 'feff', 'e4bda0e5', 'f09f9880f09f98', '80818283', 'c3c3a9'];
for (const h of broken) {
  const b = Buffer.from(h, 'hex');
  add(b);
  add(Buffer.concat([Buffer.from('ab '), b, Buffer.from(" é's")]));
  add(Buffer.concat([b, Buffer.from('字'), b, b]));
  add(Buffer.concat([Buffer.from('<|im_end|>'), b, Buffer.from('<|im_end|>\u0301')]));
}

// ---- every block ----
function isAgreed(c) {
  if (c >= 0xd800 && c <= 0xdfff) return false;
  const s = String.fromCodePoint(c);
  return /^\p{Assigned}$/u.test(s) && !/^\p{M}$/u.test(s) && !isTooRecent(c);
}
for (let block = 0; block < 0x32400; block += block < 0x3000 ? 0x40 : 0x100) {
  if (block >= 0x3400 && block < 0xa000 && block % 0x800 !== 0) continue; // ideographs: samples
  if (block >= 0xac00 && block < 0xd700 && block % 0x800 !== 0) continue; // Hangul: samples
  if (block >= 0x17000 && block < 0x1b000 && block % 0x800 !== 0) continue;
  if (block >= 0x20000 && block % 0x1000 !== 0 && block < 0x31300) continue;
  const size = block < 0x3000 ? 0x40 : 0x100;
  const chars = [];
  for (let c = block; c < block + size; c++) if (isAgreed(c)) chars.push(String.fromCodePoint(c));
  if (chars.length === 0) continue;
  add(chars.slice(0, 64).join(''));
  add(many(24, () => pick(chars) + pick(['', '', '', ' ', 'a', '1', '.'])));
}

// ---- long ones ----
for (const unit of ['a', 'ab', ' ', '\n', '\t', 'の', '字', '9', '!', 'é', 'e\u0301', '🙂', 'the ', '\r\n', ' a', "'s", '<'])
  { add(unit.repeat(300)); add('x' + unit.repeat(257) + 'y'); }

fs.writeFileSync(1, [...lines.keys()].join('\n') + '\n');
