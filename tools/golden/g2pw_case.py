"""g2pW: a tiny random model as torch exports it, and what it and upstream's code around it say.

    python3 g2pw_case.py G2PW UPSTREAM GOLDEN

G2PW is a checkout of GitYCC/g2pW (made with 36c3fcc), UPSTREAM the folder GPT_SoVITS of RVC-Boss/GPT-SoVITS
(48b1a01), GOLDEN this project's tests/golden. Writes gpt_sovits/g2pw: g2pW.onnx with its lists of
characters; and gpt_sovits/cases/g2pw: expected.safetensors (probabilities, from onnxruntime) and readings.tsv (sentences with the readings that
upstream's G2PWOnnxConverter gives). Needs torch, transformers, onnx, onnxruntime, opencc, pypinyin, safetensors.

The tokenizer is that of gpt_sovits/models/chinese-roberta-wwm-ext-large."""
import json
import os
import sys
import types

import numpy
import torch
from safetensors.torch import save_file

G2PW, UPSTREAM, GOLDEN = sys.argv[1:4]
OUT, CASE = os.path.join(GOLDEN, "gpt_sovits/g2pw"), os.path.join(GOLDEN, "gpt_sovits/cases/g2pw")
TOKENIZER = os.path.join(GOLDEN, "gpt_sovits/models/chinese-roberta-wwm-ext-large")

POLYPHONES = """行 ㄒㄧㄥ2 ㄏㄤ2 ㄏㄤ4|長 ㄔㄤ2 ㄓㄤ3|重 ㄓㄨㄥ4 ㄔㄨㄥ2|樂 ㄌㄜ4 ㄩㄝ4 ㄧㄠ4|還 ㄏㄞ2 ㄏㄨㄢ2|得 ㄉㄜ2 ㄉㄜ5 ㄉㄟ3
地 ㄉㄧ4 ㄉㄜ5|著 ㄓㄜ5 ㄓㄠ2 ㄓㄠ1 ㄓㄨㄛ2 ㄓㄨ4|了 ㄌㄜ5 ㄌㄧㄠ3|都 ㄉㄡ1 ㄉㄨ1|為 ㄨㄟ4 ㄨㄟ2|種 ㄓㄨㄥ3 ㄓㄨㄥ4|好 ㄏㄠ3 ㄏㄠ4
數 ㄕㄨ4 ㄕㄨ3 ㄕㄨㄛ4|更 ㄍㄥ4 ㄍㄥ1|當 ㄉㄤ1 ㄉㄤ4|教 ㄐㄧㄠ1 ㄐㄧㄠ4|幾 ㄐㄧ3 ㄐㄧ1|應 ㄧㄥ1 ㄧㄥ4|少 ㄕㄠ3 ㄕㄠ4|背 ㄅㄟ4 ㄅㄟ1
彈 ㄉㄢ4 ㄊㄢ2|差 ㄔㄚ1 ㄔㄚ4 ㄔㄞ1|轉 ㄓㄨㄢ3 ㄓㄨㄢ4|傳 ㄔㄨㄢ2 ㄓㄨㄢ4|髮 ㄈㄚ3 ㄈㄚ4|空 ㄎㄨㄥ1 ㄎㄨㄥ4|便 ㄅㄧㄢ4 ㄆㄧㄢ2|看 ㄎㄢ4 ㄎㄢ1
中 ㄓㄨㄥ1 ㄓㄨㄥ4|分 ㄈㄣ1 ㄈㄣ4|相 ㄒㄧㄤ1 ㄒㄧㄤ4|假 ㄐㄧㄚ3 ㄐㄧㄚ4|量 ㄌㄧㄤ4 ㄌㄧㄤ2|角 ㄐㄧㄠ3 ㄐㄩㄝ2|間 ㄐㄧㄢ1 ㄐㄧㄢ4|處 ㄔㄨ4 ㄔㄨ3|女 ㄋㄩ3 ㄖㄨ3
率 ㄌㄩ4 ㄕㄨㄞ4|累 ㄌㄟ4 ㄌㄟ3|吐 ㄊㄨ3 ㄊㄨ4|散 ㄙㄢ4 ㄙㄢ3|露 ㄌㄨ4 ㄌㄡ4|宿 ㄙㄨ4 ㄒㄧㄡ3|和 ㄏㄜ2 ㄏㄢ4 ㄏㄨㄛ4|難 ㄋㄢ2 ㄋㄢ4|一 ㄧ1 ㄧ4|不 ㄅㄨ4 ㄅㄨ2"""
MONOPHONES = "他 ㄊㄚ1|期 ㄑㄧ2|識 ㄕ4|鳳 ㄈㄥ4|似 ㄙ4|我 ㄨㄛ3|液 ㄧ4|們 ㄇㄣ5"
SENTENCES = """他还得还钱。|银行行长走了。|这种种子种在地上。|他长得很长。|我们都在首都看天。|音乐让他快乐。|高兴地走在地上。|看着他睡着了。
为了你为难。|头发发白了。|一量再量体重和重量。|都重新来了。|教书的教我数数。|他当时当真了。|空了空间差一点。|传说自传相互相片转了转。
明天要放假假的不行,重要的事情说三遍!|更多|他期期艾艾地说不认识液体。|的的的的的的的的的的的的的的的的的的的的行的的的的的的的的的的的的的的的的的的的的的的的的的的的的的的的的的
他们一行人行走在行道树中间看着看守的人,弹琴的弹了一会儿。|女孩的头发很长角色难处理率领大家累了露出宿舍。|中奖的几率是几分?|似的"""

torch.manual_seed(20)
torch.set_num_threads(1)


def stub(name, **attributes):
    module = types.ModuleType(name)
    for key, value in attributes.items():
        setattr(module, key, value)
    sys.modules[name] = module
    return module


def write_lists():
    rows = [row.split() for row in POLYPHONES.replace("\n", "|").split("|")]
    pairs = [(row[0], label) for row in rows for label in row[1:]]
    open(f"{OUT}/POLYPHONIC_CHARS.txt", "w", encoding="utf-8").write("".join(f"{c}\t{p}\n" for c, p in pairs))
    mono = [row.split() for row in MONOPHONES.split("|")]
    open(f"{OUT}/MONOPHONIC_CHARS.txt", "w", encoding="utf-8").write("".join(f"{c}\t{p}\n" for c, p in mono))
    open(f"{OUT}/config.py", "w", encoding="utf-8").write("use_mask = True\nuse_char_phoneme = False\n")
    return pairs


def make_model(pairs):
    sys.path.insert(0, G2PW)
    from g2pw.module import G2PW as Network
    from transformers import BertConfig

    whole = Network.forward
    Network.forward = lambda self, ids, types, mask, phonemes, chars, places: whole(self, ids, types, mask, phonemes, chars, places)
    conditional = {"affect_location": "softmax", "bias": True, "char-linear": True, "pos-linear": False, "char+pos-second": True,
                   "char+pos-second_lowrank": False, "char+pos-second_fm": False, "fix_mode": None}
    config = BertConfig(vocab_size=237, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
                        max_position_embeddings=96, attn_implementation="eager")
    labels, chars = sorted({p for _, p in pairs}), sorted({c for c, _ in pairs})
    model = Network(config, labels, chars, ["UNK", "A", "C", "D", "I", "N", "P", "T", "V", "DE", "SHI"], use_conditional=True,
                    param_conditional=conditional, use_pos=True, param_pos={"pos_joint_training": True})
    for name, p in model.named_parameters():  # far from the start, so that every part is heard
        torch.nn.init.normal_(p, std=0.6 if "descriptor" in name or "classifier" in name else 0.3)
        if "LayerNorm.weight" in name:
            p.data = 1 + 0.2 * p.data
    return model.eval(), labels, chars, pairs


def export(model, inputs):
    names = ["input_ids", "token_type_ids", "attention_mask", "phoneme_mask", "char_ids", "position_ids"]
    axes = {"input_ids": [0, 1], "token_type_ids": [0, 1], "attention_mask": [0, 1], "phoneme_mask": [0], "char_ids": [0],
            "position_ids": [0], "probs": [0]}
    torch.onnx.export(model, tuple(inputs[n] for n in names), f"{OUT}/g2pW.onnx", input_names=names, output_names=["probs"],
                      dynamic_axes={**axes, "token_type_ids": [0, 1]}, opset_version=int(os.environ.get("OPSET", 14)),
                      do_constant_folding=True, dynamo=False)


def make_inputs(labels, chars, pairs):
    ids = torch.randint(6, 237, (1, 12))
    ids[0, 0], ids[0, -1] = 3, 4
    asked = ["行", "長", "樂", "了", "髮", "著"]
    mask = torch.tensor([[float((c, label) in pairs) for label in labels] for c in asked])
    return {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": torch.ones_like(ids), "phoneme_mask": mask,
            "char_ids": torch.tensor([chars.index(c) for c in asked]), "position_ids": torch.tensor([1, 3, 4, 7, 8, 10])}


def one_row(inputs):
    """As upstream calls it: a sentence once, its questions as rows."""
    n = len(inputs["char_ids"])
    return {k: v.expand(n, -1).contiguous() if k in ("input_ids", "token_type_ids", "attention_mask") else v for k, v in inputs.items()}


def write_expected(model, inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(f"{OUT}/g2pW.onnx", providers=["CPUExecutionProvider"])
    probs = session.run([], {k: v.numpy() for k, v in one_row(inputs).items()})[0]
    with torch.no_grad():
        check = model(*one_row(inputs).values()).numpy()
        hidden = model.bert(inputs["input_ids"], return_dict=False)[0]
    assert numpy.abs(probs - check).max() < 1e-5, numpy.abs(probs - check).max()
    out = {k: v.to(torch.int32) if v.dtype == torch.int64 else v for k, v in inputs.items() if k not in ("token_type_ids", "attention_mask")}
    save_file({**out, "hidden": hidden.contiguous(), "probs": torch.from_numpy(probs)}, f"{CASE}/expected.safetensors")


def write_readings():
    stub("requests")
    text = stub("text")
    text.__path__ = [os.path.join(UPSTREAM, "text")]
    g2pw = stub("text.g2pw")
    g2pw.__path__ = [os.path.join(UPSTREAM, "text/g2pw")]
    json.dump({}, open(f"{OUT}/char_bopomofo_dict.json", "w"))
    table = os.path.join(G2PW, "g2pw/bopomofo_to_pinyin_wo_tune_dict.json")
    open(f"{OUT}/bopomofo_to_pinyin_wo_tune_dict.json", "w").write(open(table).read())
    from text.g2pw.onnx_api import G2PWOnnxConverter

    converter = G2PWOnnxConverter(OUT, style="pinyin", model_source=TOKENIZER, enable_non_tradional_chinese=True)
    with open(f"{CASE}/readings.tsv", "w", encoding="utf-8") as f:
        for sentence in SENTENCES.replace("\n", "|").split("|"):
            f.write(sentence + "\t" + " ".join(converter([sentence])[0]) + "\n")
    os.remove(f"{OUT}/char_bopomofo_dict.json")
    os.remove(f"{OUT}/bopomofo_to_pinyin_wo_tune_dict.json")


if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    os.makedirs(CASE, exist_ok=True)
    model, labels, chars, pairs = make_model(write_lists())
    inputs = make_inputs(labels, chars, set(pairs))
    export(model, one_row(inputs))
    write_expected(model, inputs)
    write_readings()
