"""Reference pieces for tests/golden/speech/cuts.json.

    python3 speech_cuts.py TTS_INFER_PACK OUT

TTS_INFER_PACK is GPT-SoVITS's folder of that name. Its cut functions are imported; the functions around
them are taken out of TextPreprocessor.py, whose own imports need the whole of GPT-SoVITS.
"""
import ast
import io
import json
import re
import sys
from contextlib import redirect_stdout

TEXTS = [
    "你好，世界。今天天气很好！我们去公园散步吧？好的。",
    "一。二。三。四。五。六。七。八。九。十。",
    "Hello, world! It is 3.14 today. Are you ok? Yes. No. Maybe... fine.",
    "他说：“好。”然后走了……再也没有回来——真的。",
    "短",
    "Hi",
    "嗯，好。",
    "第一行\n第二行\n\n第三行",
    "这是一个很长的句子，里面有很多逗号，用来检查五十个字一切的方法，是不是和原来的一样，再加一点字，就够了，然后还有一句，不长。",
    "价格是3.5元，版本2.0。下一句。",
    "!!!???",
    "...",
    "abc...def!!ghi??jkl",
    "a.b.c. d. e",
    "我用Python写代码。It works! 太好了，对吧？Yes, it is.",
    "没有标点的一句话",
    "~你好~世界：一—二…三",
    "、顿号、也算；分号；怎么样",
    "甲乙丙丁戊己庚辛壬癸，" * 60,
    "\n\n开头有空行。",
    "结尾有空行。\n\n",
    "One two three four five six seven eight nine ten. " * 3,
    "……省略号开头，然后说话。",
    "——破折号开头。",
    "真的吗？！当然！！！",
    "1.5 2.5 3.5。4.5。",
    "3.14",
    ".5和5.",
    "A.B.C.",
    "e.g. this, i.e. that. Mr. Smith.",
    "你好,world.再见,world!",
    "一,二,三,四,五,六,七,八,九,十",
    "，，，，",
    "，开头是逗号",
    "a",
    "ab，",
    "abcd",
    "中文;分号；英文:冒号：完",
    "换行\n\n\n\n很多\n空行\n",
    "   前后有空格   ",
    "空 格 在 中 间 。 是 吗 ？",
    "“引号里的话。”他说：‘单引号。’",
    "（括号。）【方括号！】《书名？》",
    "有一个点." + "很长的后半句没有标点" * 45,
    "word " * 90,
    "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u,v,w,x,y,z.",
    "😀表情符号，也算。🎉🎉🎉",
    "~~~波浪线~~~",
    "第一句。第二句！第三句？第四句…第五句，第六句：第七句—第八句~第九句。",
    "价格：￥100；数量：5^个。",
    "制表\t符，全角　空格。",
]


def load(folder):
    sys.path.insert(0, folder)
    import text_segmentation_method as method

    tree = ast.parse(open(f"{folder}/TextPreprocessor.py", encoding="utf-8").read())
    wanted = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            node.body = [n for n in node.body if getattr(n, "name", "") in ("pre_seg_text", "filter_text", "replace_consecutive_punctuation")]
            wanted.append(node)
    scope = {"re": re, "splits": method.splits, "split_big_text": method.split_big_text, "get_seg_method": method.get_method,
             "i18n": lambda x: x, "punctuation": {"!", "?", "…", ",", ".", "-"}}
    exec(compile(ast.Module(body=wanted, type_ignores=[]), "TextPreprocessor.py", "exec"), scope)
    return scope["TextPreprocessor"].__new__(scope["TextPreprocessor"])


def main(folder, out):
    front = load(folder)
    cases = []
    for text in TEXTS:
        for lang in ("zh", "en"):
            for how in ("cut0", "cut1", "cut2", "cut3", "cut4", "cut5"):
                try:
                    with redirect_stdout(io.StringIO()):
                        pieces = front.pre_seg_text(front.replace_consecutive_punctuation(text), lang, how)
                except (ValueError, IndexError):
                    pieces = []  # nothing to say
                cases.append({"text": text, "language": lang, "cut": how, "pieces": pieces})
    json.dump(cases, open(out, "w", encoding="utf-8"), ensure_ascii=False, indent=0)
    print(len(cases), "cases")


if __name__ == "__main__":
    main(*sys.argv[1:])
