// reference.js - what the Hugging Face tokenizers library makes of the lines.
//
//   node reference.js TOKENIZER.json < lines.txt > NAME.expected
//
// One row for each line: number of ids, FNV-1a 64 of the ids (each as four bytes, little-endian),
// and the low halves of the same hash of the text decoded from them, with and without special
// tokens. Bytes that are not UTF-8 reach the library as U+FFFD, one for each maximal subpart, as a Python or Rust program
// that replaces errors would pass them. Needs the npm package "tokenizers" (fetch.sh --reference).
'use strict';
const fs = require('fs');
const { unescapeLine } = require('./escape.js');
const { Tokenizer } = require('tokenizers');

function fnv(bytes) {
  let h = 0xcbf29ce484222325n;
  for (const b of bytes) h = ((h ^ BigInt(b)) * 0x100000001b3n) & 0xffffffffffffffffn;
  return h.toString(16).padStart(16, '0');
}

function idBytes(ids) {
  const b = Buffer.alloc(ids.length * 4);
  ids.forEach((id, i) => b.writeUInt32LE(id, i * 4));
  return b;
}

async function main() {
  const t = Tokenizer.fromFile(process.argv[2]);
  const rows = [];
  for (const line of fs.readFileSync(0, 'utf8').replace(/\n$/, '').split('\n')) {
    const text = unescapeLine(line).toString('utf8');
    const ids = (await t.encode(text, null, { addSpecialTokens: false })).getIds();
    const all = await t.decode(ids, false);
    const plain = await t.decode(ids, true);
    const low = (s) => fnv(Buffer.from(s)).slice(8);
    rows.push(`${ids.length} ${fnv(idBytes(ids))} ${low(all)} ${low(plain)}`);
  }
  fs.writeFileSync(1, rows.join('\n') + '\n');
}
main();
