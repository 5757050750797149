// escape.js - the one-line spelling of arbitrary bytes used by tests/golden/tokenizer/lines.txt.
//
//   \\ \n \r \t   as in C          \xHH   one byte
//
// Everything printable stands for itself in UTF-8. What is invisible (controls, format characters,
// spaces other than U+0020, marks without a base) and what is not UTF-8 is written byte by byte, so
// that no editor changes it. tests/unit/text/line_corpus.h reads the same spelling.
'use strict';

const VISIBLE = /^[\p{L}\p{N}\p{P}\p{S}\p{M} ]$/u;

function unescapeLine(line) {
  const out = [];
  for (let i = 0; i < line.length; ) {
    const c = line.codePointAt(i);
    const ch = String.fromCodePoint(c);
    i += ch.length;
    if (ch !== '\\') {
      out.push(Buffer.from(ch, 'utf8'));
      continue;
    }
    const kind = line[i++];
    const simple = { '\\': 0x5c, n: 0x0a, r: 0x0d, t: 0x09 };
    if (kind in simple) out.push(Buffer.from([simple[kind]]));
    else if (kind === 'x') {
      out.push(Buffer.from([parseInt(line.slice(i, i + 2), 16)]));
      i += 2;
    } else throw new Error(`bad escape \\${kind} in ${line}`);
  }
  return Buffer.concat(out);
}

function hex(bytes) {
  return [...bytes].map((b) => '\\x' + b.toString(16).padStart(2, '0')).join('');
}

function escapeBytes(bytes) {
  let out = '';
  for (let i = 0; i < bytes.length; ) {
    let size = 1;
    const lead = bytes[i];
    if (lead >= 0xf0) size = 4;
    else if (lead >= 0xe0) size = 3;
    else if (lead >= 0xc0) size = 2;
    const part = bytes.subarray(i, i + size);
    const text = part.toString('utf8');
    const valid = Buffer.from(text, 'utf8').equals(part) && [...text].length === 1;
    if (!valid) {
      out += hex(bytes.subarray(i, i + 1));
      i += 1;
      continue;
    }
    i += size;
    if (text === '\\') out += '\\\\';
    else if (text === '\n') out += '\\n';
    else if (text === '\r') out += '\\r';
    else if (text === '\t') out += '\\t';
    else if (VISIBLE.test(text) && !(/^\p{M}$/u.test(text) && out === '')) out += text;
    else out += hex(part);
  }
  return out.replace(/ $/, '\\x20').replace(/^ /, '\\x20').replace(/^#/, '\\x23');
}

module.exports = { unescapeLine, escapeBytes };
