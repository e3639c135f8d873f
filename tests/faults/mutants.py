"""Ways to harm the files of a checkpoint: each a small function of a file's bytes and a source of random numbers."""

from __future__ import annotations

import json
import random
from typing import Any, Callable

Harm = Callable[[bytes, random.Random], bytes]

HUGE = (-1, -2**63, 2**31, 2**53, 2**63, 2**64, 10**30, 10**4000)
ODD = (None, True, False, 0, -1, 0.5, 1e308, "", "x", "1", [], {}, [[]], {"a": 1}, 2**53 + 1, "\x00", "é" * 50)


def _truncated(data: bytes, draw: random.Random) -> bytes:
    return data[:draw.randrange(len(data))]


def _longer(data: bytes, draw: random.Random) -> bytes:
    return data + draw.randbytes(draw.randrange(1, 5000))


def _bytes_changed(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.randrange(1, 9)):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def _a_piece_twice(data: bytes, draw: random.Random) -> bytes:
    first = draw.randrange(len(data))
    end = min(len(data), first + draw.randrange(1, 200))
    return data[:end] + data[first:]


def _a_piece_gone(data: bytes, draw: random.Random) -> bytes:
    first = draw.randrange(len(data))
    return data[:first] + data[first + draw.randrange(1, 200):]


def _noise(data: bytes, draw: random.Random) -> bytes:
    return draw.randbytes(draw.randrange(1, 20_000))


def _zeros(data: bytes, draw: random.Random) -> bytes:
    return bytes(len(data))


def _empty(data: bytes, draw: random.Random) -> bytes:
    return b""


OF_BYTES: dict[str, Harm] = {
    "truncated": _truncated, "longer": _longer, "bytes changed": _bytes_changed, "a piece twice": _a_piece_twice,
    "a piece gone": _a_piece_gone, "noise": _noise, "zeros": _zeros, "empty": _empty}


def _header_length(data: bytes, draw: random.Random) -> bytes:
    lies = (0, 1, 7, len(data), len(data) - 8, len(data) - 7, 2**31, 2**40, 2**63, 2**64 - 1, draw.randrange(2**64))
    return draw.choice(lies).to_bytes(8, "little") + data[8:]


def _in_header(change: Callable[[dict, random.Random], Any], also_end: bool = False) -> Harm:
    """Change the header and write it again, of the length that it then has."""
    def harm(data: bytes, draw: random.Random) -> bytes:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8:8 + length])
        changed = change(header, draw)
        text = changed if isinstance(changed, bytes) else json.dumps(header if changed is None else changed).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + data[8 + length:]
    return harm


def _some(header: dict, draw: random.Random) -> dict:
    return header[draw.choice(sorted(header))]


def _offsets_lie(header: dict, draw: random.Random) -> None:
    entry = _some(header, draw)
    entry["data_offsets"][draw.randrange(2)] += draw.choice((-4, 4, -1, 1, 400, -400, *HUGE))


def _shifted_whole(header: dict, draw: random.Random) -> None:
    entry, by = _some(header, draw), draw.choice((-4, 4, 64, -64, 2**40))
    entry["data_offsets"] = [offset + by for offset in entry["data_offsets"]]


def _overlap(header: dict, draw: random.Random) -> None:
    one, other = _some(header, draw), _some(header, draw)
    one["data_offsets"], one["shape"] = list(other["data_offsets"]), list(other["shape"])
    header["one more"] = dict(one)


def _nested(header: dict, draw: random.Random) -> None:
    entry = _some(header, draw)
    first, end = entry["data_offsets"]
    half = (end - first) // 8
    header["inside"] = {"dtype": "F32", "shape": [half], "data_offsets": [first, first + 4 * half]}


def _shape_lies(header: dict, draw: random.Random) -> None:
    shape = _some(header, draw)["shape"]
    shape[draw.randrange(len(shape))] = draw.choice((*HUGE, 0, 1, 7, 2.0, "32", None, True, [32]))


def _shape_of_many(header: dict, draw: random.Random) -> None:
    """Whose product takes an age to compute, or has as many elements as it should by way of ones."""
    entry = _some(header, draw)
    entry["shape"] = draw.choice(([10**3000] * 2000, [1] * 50_000 + entry["shape"], [0] * 9, [2**62, 2**62, 0]))


def _dtype_lies(header: dict, draw: random.Random) -> None:
    _some(header, draw)["dtype"] = draw.choice(("F16", "BF16", "F64", "I32", "U8", "f32", "", None, 4, ["F32"]))


def _entry_of_another_kind(header: dict, draw: random.Random) -> None:
    header[draw.choice(sorted(header))] = draw.choice(ODD)


def _field_of_another_kind(header: dict, draw: random.Random) -> None:
    _some(header, draw)[draw.choice(("dtype", "shape", "data_offsets"))] = draw.choice((*ODD, [1], [1, 2, 3], [[1, 2]]))


def _field_gone(header: dict, draw: random.Random) -> None:
    del _some(header, draw)[draw.choice(("dtype", "shape", "data_offsets"))]


def _entry_gone(header: dict, draw: random.Random) -> None:
    del header[draw.choice(sorted(header))]


def _renamed(header: dict, draw: random.Random) -> None:
    name = draw.choice(sorted(header))
    header[draw.choice(("__metadata__", name + "x", "", "../" + name, name.upper(), "\ud800"))] = header.pop(name)


def _name_twice(header: dict, draw: random.Random) -> bytes:
    name = draw.choice(sorted(header))
    other = draw.choice(sorted(header))
    return json.dumps(header)[:-1].encode() + f', "{name}": {json.dumps(header[other])}}}'.encode()


def _nested_deep(header: dict, draw: random.Random) -> bytes:
    depth = draw.choice((200, 5_000, 100_000))
    return draw.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth))


def _many_digits(header: dict, draw: random.Random) -> bytes:
    digits = b"9" * draw.choice((500, 5_000, 500_000))
    return b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, ' + digits + b"]}}"


def _not_an_object(header: dict, draw: random.Random) -> Any:
    return json.dumps(draw.choice([value for value in ODD if not isinstance(value, dict)])).encode()


def _harmless_order(header: dict, draw: random.Random) -> dict:
    names = sorted(header)
    draw.shuffle(names)
    return {name: header[name] for name in names}


def _harmless_metadata(header: dict, draw: random.Random) -> None:
    header["__metadata__"] = {"format": "pt", "note": "x" * draw.randrange(50)}


OF_TENSORS: dict[str, Harm] = {"header length lies": _header_length} | {
    name: _in_header(change) for name, change in {
        "offsets lie": _offsets_lie, "a tensor elsewhere": _shifted_whole, "tensors overlap": _overlap,
        "a tensor inside another": _nested, "shape lies": _shape_lies, "shape of many numbers": _shape_of_many,
        "dtype lies": _dtype_lies, "entry of another kind": _entry_of_another_kind,
        "field of another kind": _field_of_another_kind, "field gone": _field_gone, "entry gone": _entry_gone,
        "renamed": _renamed, "name twice": _name_twice, "nested deep": _nested_deep, "many digits": _many_digits,
        "not an object": _not_an_object, "harmless: other order": _harmless_order,
        "harmless: metadata": _harmless_metadata}.items()}


def _in_json(change: Callable[[Any, random.Random], Any]) -> Harm:
    return lambda data, draw: json.dumps(change(json.loads(data), draw)).encode()


def _value_of_another_kind(tree: Any, draw: random.Random) -> Any:
    holder, key = draw.choice(_places(tree))
    holder[key] = draw.choice((*ODD, *HUGE, float("inf"), float("nan")))
    return tree


def _key_gone(tree: Any, draw: random.Random) -> Any:
    holder, key = draw.choice(_places(tree))
    del holder[key]
    return tree


def _key_renamed(tree: Any, draw: random.Random) -> Any:
    holder, key = draw.choice([(holder, key) for holder, key in _places(tree) if isinstance(holder, dict)])
    holder[draw.choice((key + "x", "", "__class__", "../../x"))] = holder.pop(key)
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) in a tree of JSON."""
    keys = tree.keys() if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [place for key in list(keys) for place in ((tree, key), *_places(tree[key]))]


def _deep_json(data: bytes, draw: random.Random) -> bytes:
    depth = draw.choice((200, 5_000, 100_000))
    return draw.choice((b"[" * depth, b"[" * depth + b"]" * depth, b'{"a":' * depth))


def _harmless_layout(data: bytes, draw: random.Random) -> bytes:
    return json.dumps(json.loads(data), indent=draw.randrange(2, 7)).encode()


OF_JSON: dict[str, Harm] = {
    "value of another kind": _in_json(_value_of_another_kind), "key gone": _in_json(_key_gone),
    "key renamed": _in_json(_key_renamed), "nested deep": _deep_json, "harmless: layout": _harmless_layout}


def _aliases_that_explode(data: bytes, draw: random.Random) -> bytes:
    """Ten lines that stand for a billion values."""
    wide, deep = draw.choice(((10, 9), (2, 60), (100, 6)))
    lines = [f"a0: &a0 [{', '.join(['x'] * wide)}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * wide)}]" for n in range(1, deep)]
    return "\n".join(lines).encode() + b"\n" + data


def _alias_of_itself(data: bytes, draw: random.Random) -> bytes:
    return draw.choice((b"a: &a [*a]\n", b"&a {a: *a}\n", b"family: &f\n  x: *f\n")) + draw.choice((b"", data))


def _deep_yaml(data: bytes, draw: random.Random) -> bytes:
    depth = draw.choice((200, 5_000, 50_000))
    return draw.choice((b"a: " + b"[" * depth, b"a: " + b"[" * depth + b"]" * depth, b"a: " + b"{b: " * depth,
                        b"- " * depth))


def _tag(data: bytes, draw: random.Random) -> bytes:
    tag = draw.choice((b"!!python/object/apply:os.system ['true']", b"!!binary AAAA", b"!x y", b"!!set {a, b}",
                       b"!!timestamp 2020-01-01", b"!!int x", b"!!bool maybe", b"!!float x"))
    lines = data.splitlines(keepends=True)
    place = draw.randrange(len(lines))
    return b"".join(lines[:place]) + b"run: " + tag + b"\n" + b"".join(lines[place + 1:])


def _line_changed(data: bytes, draw: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    place = draw.randrange(len(lines))
    key = lines[place].partition(b":")[0]
    value = draw.choice((b" ''", b" null", b" -1", b" 1e400", b" " + b"9" * 400, b" .nan", b" []", b" {a: b}",
                         b" [[1]]", b" yes", b" \x00", b" &x y", b" *nowhere", b" |\n  text", b" 0x7f", b" 1:30"))
    lines[place] = key + b":" + value + b"\n"
    return b"".join(lines)


def _harmless_comment(data: bytes, draw: random.Random) -> bytes:
    return b"# " + b"x" * draw.randrange(100) + b"\n" + data


OF_YAML: dict[str, Harm] = {
    "aliases that explode": _aliases_that_explode, "an alias of itself": _alias_of_itself, "nested deep": _deep_yaml,
    "a tag": _tag, "a line changed": _line_changed, "harmless: comment": _harmless_comment}


def _ranks_line(data: bytes, draw: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    place = draw.randrange(len(lines))
    lines[place] = draw.choice((b"!!!! 5\n", b"YQ== -1\n", b"YQ== 99999999999999999999\n", b"YQ==\n", b"YQ== 5 6\n",
                                b"YQ== x\n", b"\n", b"YQ== 4294967296\n", b"YQ== 4000000000\n", b"YWFh 1.5\n",
                                lines[place - 1]))
    return b"".join(lines)


def _pattern(data: bytes, draw: random.Random) -> bytes:
    tree = json.loads(data)
    tree["pattern"] = draw.choice(("(", "[", "(?P<", "(a+)+$", "", "a*", "\\p{Xx}", "(?", "a{99999999}", "x" * 50_000,
                                   5, None))
    return json.dumps(tree).encode()


def _specials(data: bytes, draw: random.Random) -> bytes:
    tree = json.loads(data)
    tree["specials"] = draw.choice(({}, {"<|endoftext|>": 0}, {"<|endoftext|>": -1}, {"<|endoftext|>": 2**40}, [],
                                    {"<|endoftext|>": "299"}, {"<|endoftext|>": 2.5}, {"x": 299}, None, "x",
                                    {"<|endoftext|>": 2**32 - 1}, {"<|endoftext|>": 299, "": 300}))
    if draw.random() < 0.5:
        tree["vocab_size"] = draw.choice((2**32, 2**40, -1, 0, 300.0, "300", 301, None))
    return json.dumps(tree).encode()


HARMS: dict[str, dict[str, Harm]] = {
    "model.safetensors": OF_BYTES | OF_TENSORS, "optimizer-exp_avg.safetensors": OF_BYTES | OF_TENSORS,
    "state.json": OF_BYTES | OF_JSON, "recipe.yaml": OF_BYTES | OF_YAML, "manifest.json": OF_BYTES | OF_JSON,
    "manifest.sha256": OF_BYTES,
    "tokenizer/tokenizer.json": OF_BYTES | OF_JSON | {"pattern": _pattern, "specials": _specials},
    "tokenizer/tokenizer.tiktoken": OF_BYTES | {"a line of ranks": _ranks_line}}
"""by file and kind; those of a checkpoint with a learned tokenizer"""
