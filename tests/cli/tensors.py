"""Tensor files and attention in fp64 with nothing but Python's standard library: independent of the program under test."""

import json
import math
import struct

SAFETENSORS = {"fp16": "F16", "bf16": "BF16", "fp32": "F32", "fp64": "F64", "bool": "BOOL"}
NPY = {"fp16": "<f2", "fp32": "<f4", "fp64": "<f8", "bool": "|b1"}
CODES = {"fp16": "e", "fp32": "f", "fp64": "d", "bool": "?"}


def count(shape):
    return math.prod(shape)


def to_bf16(x):
    bits = struct.unpack("<I", struct.pack("<f", x))[0]
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def pack(values, dtype):
    if dtype == "bf16":
        return struct.pack(f"<{len(values)}H", *map(to_bf16, values))
    return struct.pack(f"<{len(values)}{CODES[dtype]}", *values)


def unpack(data, dtype):
    if dtype == "bf16":
        halves = struct.unpack(f"<{len(data) // 2}H", data)
        return list(struct.unpack(f"<{len(halves)}f", struct.pack(f"<{len(halves)}I", *(h << 16 for h in halves))))
    return list(struct.unpack(f"<{len(data) // struct.calcsize(CODES[dtype])}{CODES[dtype]}", data))


def rounded(values, dtype):
    """The values as the file will hold them."""
    return unpack(pack(values, dtype), dtype)


def npy_bytes(shape, values, dtype):
    text = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
    header = f"{{'descr': '{NPY[dtype]}', 'fortran_order': False, 'shape': ({text}), }}"
    header += " " * (-(11 + len(header)) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + pack(values, dtype)


def safetensors_bytes(tensors):
    """tensors: {name: (shape, values, dtype)}"""
    header, data = {}, b""
    for name, (shape, values, dtype) in tensors.items():
        packed = pack(values, dtype)
        header[name] = {"dtype": SAFETENSORS[dtype], "shape": list(shape), "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def read_npy(path):
    """(shape, values, dtype)"""
    data = path.read_bytes()
    assert data[:8] == b"\x93NUMPY\x01\x00", data[:8]
    size = struct.unpack("<H", data[8:10])[0]
    header = eval(data[10 : 10 + size].decode(), {"__builtins__": {}})  # written by the program under test, in a test
    assert not header["fortran_order"] and (10 + size) % 64 == 0
    dtype = {v: k for k, v in NPY.items()}[header["descr"]]
    values = unpack(data[10 + size :], dtype)
    assert len(values) == count(header["shape"])
    return tuple(header["shape"]), values, dtype


def read_safetensors(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    names = {v: k for k, v in SAFETENSORS.items()}
    result = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype = names[entry["dtype"]]
        result[name] = (tuple(entry["shape"]), unpack(data[8 + size + begin : 8 + size + end], dtype), dtype)
    return result


class Attention:
    """out [B, H, Sq, Dv] and lse [B, H, Sq] as flat lists. q, k, v: flat lists in bhsd."""

    def __init__(self, q, k, v, q_shape, k_shape, v_dim, scale=None, visible=None, bias=None):
        batch, heads, seqlen_q, dim = q_shape
        heads_kv, seqlen_k = k_shape[1], k_shape[2]
        scale = dim**-0.5 if scale is None else scale
        self.out, self.lse = [], []
        for b in range(batch):
            for h in range(heads):
                head_kv = (b * heads_kv + h // (heads // heads_kv)) * seqlen_k
                keys = [k[(head_kv + j) * dim : (head_kv + j + 1) * dim] for j in range(seqlen_k)]
                values = [v[(head_kv + j) * v_dim : (head_kv + j + 1) * v_dim] for j in range(seqlen_k)]
                for i in range(seqlen_q):
                    row = ((b * heads + h) * seqlen_q + i) * dim
                    query = q[row : row + dim]
                    js = [j for j in range(seqlen_k) if visible is None or visible(b, h, i, j)]
                    scores = [scale * sum(map(float.__mul__, query, keys[j])) + (bias(b, h, i, j) if bias else 0.0) for j in js]
                    if not scores or max(scores) == -math.inf:
                        self.out += [0.0] * v_dim
                        self.lse.append(-math.inf)
                        continue
                    top = max(scores)
                    weights = [math.exp(s - top) for s in scores]
                    total = sum(weights)
                    sums = [0.0] * v_dim
                    for w, j in zip(weights, js):
                        for d, x in enumerate(values[j]):
                            sums[d] += w * x
                    self.out += [x / total for x in sums]
                    self.lse.append(top + math.log(total))


def transpose(values, shape):
    """[B, X, Y, D] -> [B, Y, X, D]"""
    b, x, y, d = shape
    return [value for n in range(b) for j in range(y) for i in range(x) for value in values[((n * x + i) * y + j) * d : ((n * x + i) * y + j + 1) * d]]


def nrmse(got, want):
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(got, want))) / math.sqrt(sum(b * b for b in want))
