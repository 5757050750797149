"""What upstream's own front end makes of sentences: normal text and phones, one line each.

    python3 speech_front.py UPSTREAM G2P_EN TAGGER < sentences > reference.tsv

UPSTREAM is the folder GPT_SoVITS of RVC-Boss/GPT-SoVITS (48b1a01); G2P_EN a folder that holds the package g2p_en of
Kyubyong/g2p; TAGGER averaged_perceptron_tagger.zip of nltk_data. Needs jieba, pypinyin, nltk, inflect, opencc and transformers.
Sentences are "zh<TAB>text" or "en<TAB>text"; the answer is language, text, normal text, phones ("! ERROR" where upstream gives up).
What TextPreprocessor.py does around it for one uncut piece is done too. Upstream runs as it is, but for what cannot be had: jieba_fast is jieba; g2pW's network is
pypinyin, which is what upstream reads all other characters with; words that wordsegment would cut are whole."""
import io
import os
import pickle
import re
import sys
import types
import zipfile
from contextlib import redirect_stdout

from speech_cuts import load as load_cutter

UPSTREAM, G2P_EN, TAGGER = sys.argv[1:4]


def stub(name, **attributes):
    module = types.ModuleType(name)
    for key, value in attributes.items():
        setattr(module, key, value)
    sys.modules[name] = module
    return module


class Plain(pickle.Unpickler):
    """Sets and nothing else are built."""

    def find_class(self, module, name):
        if (module, name) in (("__builtin__", "set"), ("builtins", "set")):
            return set
        raise pickle.UnpicklingError(f"{module}.{name}")


def load_tagger():
    import nltk
    from nltk.tag.perceptron import PerceptronTagger

    archive = zipfile.ZipFile(TAGGER)
    name = next(n for n in archive.namelist() if n.endswith(".pickle"))
    tagger = PerceptronTagger(load=False)
    tagger.model.weights, tagger.tagdict, tagger.classes = Plain(io.BytesIO(archive.read(name)), encoding="latin1").load()
    tagger.model.classes = tagger.classes
    nltk.pos_tag = lambda tokens: tagger.tag(tokens)
    nltk.data.find = lambda *_: None
    stub("nltk.corpus", cmudict=types.SimpleNamespace(dict=dict))


def load_chinese():
    import jieba
    import jieba.posseg
    from pypinyin import Style, pinyin

    jieba.setLogLevel(60)
    jieba.posseg.initialize()
    sys.modules["jieba_fast"], sys.modules["jieba_fast.posseg"] = jieba, jieba.posseg
    stub("cn2an", transform=None)
    stub("requests")
    stub("onnxruntime")
    stub("text.g2pw.onnx_api", G2PWOnnxConverter=None)
    import text.g2pw.g2pw as g2pw

    class Dictionary:
        def __init__(self, **_):
            pass

        def _g2pw(self, sentences):
            return [[p[0] for p in pinyin(s, neutral_tone_with_five=True, style=Style.TONE3)] for s in sentences]

    g2pw.G2PWPinyin = Dictionary
    sys.modules["text.g2pw"] = types.SimpleNamespace(G2PWPinyin=Dictionary, correct_pronunciation=g2pw.correct_pronunciation)
    from text import chinese2

    return chinese2


def load_english():
    load_tagger()
    stub("wordsegment", load=lambda: None, segment=lambda word: [word])
    from text import english

    return english


def clean(module, lang, text):
    normal = module.text_normalize(text)
    phones = module.g2p(normal)
    if lang == "zh":
        return normal, phones[0]
    return normal, [","] + phones if len(phones) < 4 else phones


def read(cutter, module, lang, text):
    piece = "".join(cutter.pre_seg_text(cutter.replace_consecutive_punctuation(text), lang, "cut0"))
    normal, phones = clean(module, lang, piece)
    return clean(module, lang, "." + piece) if len(phones) < 6 else (normal, phones)


def main():
    sys.path[:0] = [UPSTREAM, G2P_EN]
    out, parts, cutter = sys.stdout, {}, load_cutter(os.path.join(UPSTREAM, "TTS_infer_pack"))
    for line in sys.stdin:
        lang, text = line.rstrip("\n").split("\t")
        with redirect_stdout(io.StringIO()):
            if lang not in parts:
                parts[lang] = load_chinese() if lang == "zh" else load_english()
            try:
                normal, phones = read(cutter, parts[lang], lang, text)
            except Exception as e:
                normal, phones = "", ["!", type(e).__name__]
        out.write("\t".join(re.sub(r"\s", " ", x) for x in (lang, text, normal, " ".join(phones))) + "\n")


if __name__ == "__main__":
    main()
