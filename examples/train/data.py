# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Data: Debian's documentation packages -> clean English text -> byte-level BPE of 4096 tokens -> 16-bit codes.

    python data.py DIR                  fetch the packages and build everything below DIR (a few minutes on two cores)
    python data.py DIR --packages a b   other packages

What it leaves in DIR, and all that training needs:

    train.u16.xz   the training documents as little-endian uint16 codes, shuffled, each closed by token 0
    held.u16.xz    whole documents that training never sees, likewise
    tokenizer.json the tokenizer (the `tokenizers` library's own format)
    data.json      packages and versions, counts of documents, bytes and tokens, and a checksum

Nothing fetched here is committed: the packages have their own licences, and every machine can fetch them again.
"""

import argparse
import glob
import gzip
import hashlib
import html
import io
import json
import lzma
import os
import random
import re
import subprocess
import sys
import tarfile
import time

import numpy as np

PACKAGES = """linux-doc-6.1 python3.11-doc perl-doc anarchism apache2-doc postgresql-doc-15 python-sqlalchemy-doc
python-django-doc git-doc manpages-dev libreoffice-help-en-us debian-reference-en fortunes""".split()
# Not jargon-text: the cache report reads it, so that no shipped model may have seen it.
VOCABULARY = 4096
END = 0  # the token that closes a document
HELD_OUT_ONE_IN = 50  # documents, chosen by a hash of their path
SHUFFLE_SEED = 7

# ---------------------------------------------------------------------------------------------- from file to text

CUT = re.compile(r"<(script|style|head|nav|svg)\b.*?</\1\s*>|<!--.*?-->", re.S | re.I)
BLOCK = re.compile(r"</?(?:p|div|li|ul|ol|dl|dt|dd|h[1-6]|br|hr|section|blockquote|article|tr|td)\b[^>]*>", re.I)
TAG = re.compile(r"<[^>]*>")
POD_CODE = re.compile(r"[A-Z](?:<([^<>]*)>|<<+\s(.*?)\s>>+)")
ROFF_FONT = re.compile(r"\\f(?:\(..|\[[^\]]*\]|.)|\\&|\\\||\\\^|\\c")


def html_text(source):
    return html.unescape(TAG.sub("", BLOCK.sub("\n\n", CUT.sub("\n\n", source))))


def pod_text(source):
    for _ in range(3):  # codes nest
        source = POD_CODE.sub(lambda code: code[1] or code[2] or "", source)
    return re.sub(r"^=(?:head\d|item|over|back|cut|pod|for|begin|end|encoding)\b *", "\n", source, flags=re.M)


def roff_text(source):
    lines = []
    for line in source.splitlines():
        if line.startswith(("'\\\"", '.\\"', ".ds", ".de", ".if", ".ie", ".el", ".tr", ".nr", ".rm", "'br")):
            continue
        if line.startswith((".PP", ".P", ".SH", ".SS", ".TP", ".IP", ".LP", ".sp")):
            lines += ["", line.partition(" ")[2].strip('"')] if line.startswith((".SH", ".SS")) else [""]
        elif line.startswith((".B", ".I", ".R")):
            lines.append(line.partition(" ")[2].replace('"', ""))
        elif not line.startswith("."):
            lines.append(line)
    text = ROFF_FONT.sub("", "\n".join(lines))
    return text.replace("\\-", "-").replace("\\(aq", "'").replace("\\(dq", '"').replace("\\e", "\\")


def reader(path):
    """The function that turns this file into text, or None where the file is no English prose."""
    if "/translations/" in path or ("/apache2-doc/" in path and "/en/" not in path) or "genindex" in path:
        return None
    if re.search(r"\.html?$", path):
        return html_text
    if path.endswith(".pod"):
        return pod_text
    if re.search(r"/man\d/.*\.gz$", path):
        return roff_text
    if "/games/fortunes/" in path and "." not in os.path.basename(path):
        return lambda source: source.replace("\n%\n", "\n\n")
    return None


def documents(package_file):
    """(path, text) of every readable file in a .deb; hard and symbolic links are skipped."""
    tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", package_file], check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            read = reader(member.name) if member.isreg() else None
            if read:
                raw = archive.extractfile(member).read()
                if member.name.endswith(".gz"):
                    raw = gzip.decompress(raw)
                yield member.name, read(raw.decode("utf-8", errors="replace"))


LETTERS = re.compile(r"[A-Za-z]")
NOT_SPACE = re.compile(r"\S")


def clean(text, seen):
    """Keeps the paragraphs of prose that no earlier document held."""
    kept = []
    for paragraph in re.split(r"\n\s*\n", text):
        paragraph = " ".join(paragraph.split())
        if len(paragraph) < 40:
            continue
        visible = sum(1 for _ in NOT_SPACE.finditer(paragraph))
        if len(LETTERS.findall(paragraph)) < 0.8 * visible:
            continue
        digest = hash(paragraph)
        if digest not in seen:
            seen.add(digest)
            kept.append(paragraph)
    return "\n\n".join(kept)


# ------------------------------------------------------------------------------------------------ from text to codes


def train_tokenizer(texts, vocabulary=VOCABULARY):
    """Byte-level BPE; every digit stands alone, so that a number is spelled the same wherever it occurs."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<|end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def encode(tokenizer, texts, say):
    parts, done = [], 0
    for start in range(0, len(texts), 256):
        for one in tokenizer.encode_batch(texts[start:start + 256]):
            parts.append(np.array(one.ids + [END], dtype="<u2"))
        done += sum(map(len, texts[start:start + 256]))
        say(f"encoded {done / 1e6:6.1f} MB of text", end="\r")
    say("")
    return np.concatenate(parts)


def held_out(path):
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "little") % HELD_OUT_ONE_IN == 0


def build(folder, packages, say=print):
    started = time.time()
    debs = os.path.join(folder, "deb")
    os.makedirs(debs, exist_ok=True)
    missing = [name for name in packages if not glob.glob(os.path.join(glob.escape(debs), name + "_*.deb"))]
    if missing:
        say("fetching " + " ".join(missing))
        subprocess.run(["apt-get", "download", *missing], cwd=debs, check=True, stdout=subprocess.DEVNULL)

    seen, train, held, versions = set(), [], [], {}
    for name in packages:
        file = glob.glob(os.path.join(glob.escape(debs), name + "_*.deb"))[0]
        versions[name] = os.path.basename(file).split("_")[1]
        before = sum(map(len, train))
        for path, text in documents(file):
            text = clean(text, seen)
            if len(text) >= 200:
                (held if held_out(path) else train).append(text)
        say(f"{name:26s} {(sum(map(len, train)) - before) / 1e6:7.2f} MB of distinct prose, {time.time() - started:5.0f} s")

    random.Random(SHUFFLE_SEED).shuffle(train)
    random.Random(SHUFFLE_SEED).shuffle(held)
    sample, size = [], 0
    for text in train:
        sample.append(text)
        size += len(text)
        if size > 12e6:
            break
    say(f"training the tokenizer on {size / 1e6:.0f} MB")
    tokenizer = train_tokenizer(sample)
    tokenizer.save(os.path.join(folder, "tokenizer.json"))

    facts = {"packages": versions, "vocabulary": VOCABULARY, "end": END}
    for split, texts in (("train", train), ("held", held)):
        codes = encode(tokenizer, texts, say)
        with lzma.open(os.path.join(folder, split + ".u16.xz"), "wb", preset=6) as out:
            out.write(codes.tobytes())
        facts[split] = {"documents": len(texts), "bytes": sum(len(t.encode()) for t in texts), "tokens": len(codes),
                        "sha256": hashlib.sha256(codes.tobytes()).hexdigest()}
        say(f"{split}: {facts[split]}")
    with open(os.path.join(folder, "data.json"), "w") as out:
        json.dump(facts, out, indent=1)
    say(f"done in {time.time() - started:.0f} s")


# ------------------------------------------------------------------------------------------------------- reading it


def load(folder, split):
    """The codes of a split as an int16 array (4096 tokens fit; torch has no uint16 arithmetic)."""
    plain = os.path.join(folder, split + ".u16")
    if not os.path.exists(plain):  # unpacked once; runs that start side by side each replace it whole
        with lzma.open(plain + ".xz") as packed, open(f"{plain}.{os.getpid()}", "wb") as out:
            out.write(packed.read())
        os.replace(f"{plain}.{os.getpid()}", plain)
    return np.fromfile(plain, dtype="<i2")


def digits(folder):
    """The codes of a space and of the digits 0 to 9, each of which is a token of its own."""
    with open(os.path.join(folder, "tokenizer.json"), encoding="utf-8") as file:
        vocabulary = json.load(file)["model"]["vocab"]
    return [vocabulary[word] for word in ("Ġ", *"0123456789")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--packages", nargs="+", default=PACKAGES)
    options = parser.parse_args()
    build(options.folder, options.packages, lambda text, end="\n": print(text, end=end, flush=True))


if __name__ == "__main__":
    sys.exit(main())
