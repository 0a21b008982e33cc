# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""python -m unittest test_train       seconds on a CPU; needs torch and numpy"""

import dataclasses
import json
import math
import os
import struct
import tarfile
import tempfile
import unittest

import numpy as np
import torch

import data
import evaluate
import sweep
import table
import train
from model import BLOCKS, SIZES, Config, Model, filled, parameters
from quantize import Grid, Quantizer, bf16_nearest, decode, encode, fp16_down, fp16_up, hadamard

INT4_IDEAS = (dict(), dict(range="edge"), dict(range="clip"), dict(range="rms"), dict(squash=True), dict(rotate=True), dict(reach=2), dict(shift=True),
              dict(token_table=True), dict(look_back=1), dict(look_back=3, writer=16, gate=True, mix=True, query_gain=2.0), dict(rotary_base=500.0, rotary_gain=3.0), dict(grid="affine"),
              dict(grid="symmetric"), dict(group=8), dict(bits=2))


def tiny(block, **more):
    return Config(block=block, **(SIZES["tiny"] | more))


def scattered(model):
    """Weights that start at zero would hide what they do."""
    torch.manual_seed(3)
    for p in model.parameters():
        if p.dim() > 0:
            p.data += 0.3 * torch.randn_like(p) * (p.shape[-1] ** -0.5 if p.dim() == 2 else 0.3)
    return model.double().eval()


class Bytes(unittest.TestCase):
    def test_the_papers_proportions_at_512(self):
        expected = {"mha": 2048, "gqa": 512, "mqa": 256, "cla": 1024, "mla": 288, "clla": 144, "clla-int4": 38}
        for block, count in expected.items():
            for size in ("small", "medium"):
                self.assertEqual(Config(block=block, **SIZES[size]).bytes_per_token_per_layer(), count)
        self.assertLessEqual(Config(block="clla-int4", **SIZES["medium"]).share_of_mha(), 0.0188)

    def test_metadata_is_counted(self):
        self.assertEqual(Grid(4, "affine").bytes(128), 68)
        self.assertEqual(Grid(4, "midrise", 32).bytes(128), 64 + 8)
        self.assertEqual(Grid(2, "midrise").bytes(256), Grid(4, "midrise").bytes(128))
        self.assertEqual(Grid(16).bytes(128), 256)
        medium = SIZES["medium"]
        self.assertEqual(Config(block="clla-int4", latent=256, rotary=16, bits=2, rotary_bits=4,
                                **medium).bytes_per_token_per_layer(), 38)
        with_ids = Config(block="clla-int4", token_table=True, **medium)
        self.assertAlmostEqual(with_ids.bytes_per_token_per_layer(), 38 + 2 / 6)

    def test_siblings_have_as_many_parameters(self):
        for size in ("small", "medium"):
            wanted = parameters(Config(block="mha", **SIZES[size]))
            for block in BLOCKS:
                for idea in (INT4_IDEAS if block == "clla-int4" else (dict(),)):
                    have = parameters(Config(block=block, **SIZES[size], **idea))
                    self.assertLess(abs(have / wanted - 1), 0.01, (size, block, idea))


def half(x):
    return struct.unpack("<e", struct.pack("<e", x))[0]


class TheGrid(unittest.TestCase):
    def test_fp16_rounding_brackets_every_value(self):
        torch.manual_seed(0)
        x = torch.cat([torch.randn(4000) * 10.0 ** torch.randint(-8, 5, (4000,)), torch.tensor([0.0, 1.0, 65504.0, 1e-9])])
        up, down = fp16_up(x.abs()), fp16_down(x)
        self.assertTrue(bool(((up >= x.abs()) | (x.abs() > 65504)).all()))
        self.assertTrue(bool(((down <= x) | (x < -65504)).all()))
        for value, a in zip(x.abs().tolist(), up.tolist()):  # no fp16 lies between
            self.assertEqual(half(a), a)
            if value <= 65504:
                below = np.nextafter(np.float16(a), np.float16(-np.inf))
                self.assertTrue(float(below) < value or a == 0)
        for value, a in zip(x.tolist(), down.tolist()):
            if abs(value) < 65504:
                self.assertGreater(float(np.nextafter(np.float16(a), np.float16(np.inf))), value)

    def test_against_a_plain_decoder(self):
        """An encoder written again in numpy, value by value, must give the same codes, scales and values."""
        torch.manual_seed(1)
        rows = (torch.randn(200, 16) * 3).bfloat16().float()
        rows[0] = 0
        rows[1] = 1.5
        rows[2, 3] = 1000.0
        for kind in ("affine", "symmetric", "midrise"):
            for bits in (2, 3, 4, 8):
                grid = Grid(bits, kind)
                codes, scale, offset = encode(rows, grid)
                value = decode(codes, scale, offset, grid)
                top = 2**bits - 1
                for i, row in enumerate(rows.numpy()):
                    low = np.float16(row.min())
                    if np.float32(low) > row.min():
                        low = np.nextafter(low, np.float16(-np.inf))
                    low = np.float32(low) if kind == "affine" else np.float32(0)
                    span = {"affine": (row.max() - low) / np.float32(top),
                            "symmetric": np.abs(row).max() / np.float32(top // 2),
                            "midrise": np.abs(row).max() / np.float32(2 ** (bits - 1))}[kind]
                    step = np.float16(span)
                    if np.float32(step) < span:
                        step = np.nextafter(step, np.float16(np.inf))
                    self.assertEqual(float(step), scale[i].item())
                    step = np.float32(step)
                    for x, got in zip(row, value[i].tolist()):
                        inverse = np.float32(1) / step if step > 0 else np.float32(0)
                        if kind == "affine":
                            want = np.clip(np.rint((x - low) * inverse), 0, top) * step + low
                        elif kind == "symmetric":
                            want = np.clip(np.rint(x * inverse), -(top // 2), top // 2) * step
                        else:
                            code = np.clip(np.floor(x * inverse) + 2 ** (bits - 1), 0, top)
                            want = (2 * code - top) * (step / np.float32(2))
                        self.assertEqual(np.float32(want), np.float32(got), (kind, bits, i))

    def test_error_is_at_most_half_a_step(self):
        torch.manual_seed(2)
        rows = torch.randn(500, 128).bfloat16().float()
        for kind in ("affine", "symmetric", "midrise"):
            for bits in (2, 3, 4, 8):
                codes, scale, offset = encode(rows, Grid(bits, kind))
                error = (decode(codes, scale, offset, Grid(bits, kind)) - rows).abs()
                self.assertTrue(bool((error <= scale * 0.5 * (1 + 1e-3)).all()), (kind, bits))
                self.assertLessEqual(len(codes.unique()), 2**bits)

    def test_training_sees_exactly_the_decoded_value(self):
        torch.manual_seed(4)
        x = torch.randn(5, 7, 32, requires_grad=True)
        for range_ in ("amax", "clip", "rms"):
            quantizer = Quantizer(32, Grid(4, "midrise", 16), range=range_)
            out = quantizer(x)
            groups = quantizer.groups(x.detach().bfloat16().float())
            span = quantizer.span(groups)
            want = decode(*encode(groups, quantizer.grid, span), quantizer.grid).flatten(-2)
            self.assertTrue(torch.equal(out, want), range_)
            (gradient,) = torch.autograd.grad(out.sum(), x)
            inside = torch.ones_like(groups) if span is None else (groups.abs() <= span).float()
            self.assertTrue(torch.equal(gradient, inside.flatten(-2)), range_)

    def test_the_edge_of_a_range_learns_what_the_group_pays(self):
        x, quantizer = torch.randn(4, 64), Quantizer(64, Grid(4, "midrise"), range="edge")
        x = bf16_nearest(x).requires_grad_()
        weight = torch.randn(4, 64)
        out = quantizer(x)
        self.assertTrue(torch.equal(out, Quantizer(64, Grid(4, "midrise"))(x)))
        (out * weight).sum().backward()
        edge = x.detach().abs().argmax(1, keepdim=True)
        amax = x.detach().abs().amax(1, keepdim=True)
        pays = (weight * (out.detach() - x.detach()) / amax).sum(1, keepdim=True) * x.detach().gather(1, edge).sign()
        torch.testing.assert_close(x.grad, weight.scatter_add(1, edge, pays))
        self.assertGreater(pays.abs().min().item(), 0)

    def test_learned_range_has_the_right_gradient(self):
        torch.manual_seed(5)
        x, quantizer = torch.randn(4, 64), Quantizer(64, Grid(3, "midrise"), range="rms")
        groups = quantizer.groups(x.bfloat16().float())
        out = quantizer(x).view_as(groups)
        out.sum().backward()
        span = quantizer.span(groups).detach()
        rms = span / quantizer.multiple.detach()
        slope = torch.where(groups.abs() <= span, (out.detach() - groups) / span, groups.sign())
        self.assertAlmostEqual(quantizer.multiple.grad.item(), (slope * rms).sum().item(), places=3)

    def test_warm_up_and_rotation(self):
        x = torch.randn(3, 32)
        quantizer = Quantizer(32, Grid(4))
        quantizer.strength.fill_(0.0)
        self.assertTrue(torch.equal(quantizer(x), x.bfloat16().float()))
        self.assertFalse(torch.equal(quantizer.eval()(x), x.bfloat16().float()))  # evaluation is always on the grid
        for n in (16, 128, 24):
            h = hadamard(n)
            self.assertTrue(torch.allclose(h @ h.T, torch.eye(n), atol=1e-6))


class TheBlock(unittest.TestCase):
    def each(self):
        for block in BLOCKS:
            for idea in (INT4_IDEAS if block == "clla-int4" else (dict(),)):
                yield block, idea, scattered(Model(tiny(block, **idea)))

    def test_no_token_sees_the_future(self):
        torch.manual_seed(0)
        tokens = torch.randint(0, 256, (2, 40))
        for block, idea, model in self.each():
            with torch.no_grad():
                before = model(tokens)
                for cut in (1, 17, 39):
                    other = tokens.clone()
                    other[:, cut:] = torch.randint(0, 256, other[:, cut:].shape)
                    self.assertTrue(torch.allclose(model(other)[:, :cut], before[:, :cut], atol=1e-9), (block, idea, cut))

    def test_absorbed_is_expanded(self):
        tokens = torch.randint(0, 256, (2, 33))
        for block, idea, model in self.each():
            if model.config.is_latent:
                with torch.no_grad():
                    error = (model(tokens) - model(tokens, absorbed=True)).abs().max().item()
                self.assertLess(error, 1e-10, (block, idea))

    def test_followers_read_their_leader(self):
        for block in BLOCKS:
            model = Model(tiny(block))
            writers = [layer.attention.writes for layer in model.layers]
            shared = block in ("cla", "clla", "clla-int4")
            self.assertEqual(writers, [True, not shared, True, not shared])
            rows = []
            for layer in model.layers:
                if layer.attention.writes:
                    inner = layer.attention.row
                    layer.attention.row = lambda *a, inner=inner: rows.append(inner(*a)) or rows[-1]
                inner = layer.attention.forward
                def read(h, cache, angles, slot=layer.slot, inner=inner):
                    self.assertIs(cache[-1], rows[slot])
                    return inner(h, cache, angles)
                layer.attention.forward = read
            model(torch.randint(0, 256, (1, 8)))
            self.assertEqual(len(rows), 2 if shared else 4)

    def test_what_is_stored_lies_on_the_grid(self):
        model = Model(tiny("clla-int4")).eval()
        seen = []
        for layer in model.layers:
            if layer.attention.writes:
                layer.attention.latent_grid.register_forward_hook(lambda m, i, o: seen.append(o))
        model(torch.randint(0, 256, (1, 20)))
        for row in seen:
            for token in row[0].tolist():
                self.assertLessEqual(len({abs(x) for x in token}), 8)  # 16 levels, mirrored

    def test_every_weight_learns(self):
        for block, idea, model in self.each():
            model = model.float().train()
            model.loss(torch.randint(0, 256, (2, 30))).backward()
            for name, p in model.named_parameters():
                self.assertIsNotNone(p.grad, (block, idea, name))
                self.assertGreater(p.grad.abs().sum().item(), 0, (block, idea, name))

    def test_bad_words_are_refused(self):
        with self.assertRaisesRegex(ValueError, "unknown block"):
            tiny("mlha")
        with self.assertRaisesRegex(ValueError, "skip slot"):
            tiny("clla", slots="0022")
        with self.assertRaisesRegex(ValueError, "name 3 layers of 4"):
            tiny("clla", slots="001")


class TheRun(unittest.TestCase):
    def folder(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        rng = np.random.default_rng(0)
        for split, n in (("train", 20000), ("held", 3000)):
            rng.integers(1, 20, n, dtype=np.uint16).tofile(os.path.join(folder.name, split + ".u16"))
        with open(os.path.join(folder.name, "data.json"), "w") as facts:
            facts.write("{}")
        return folder.name

    def command(self, folder, out, *more):
        return train.arguments(["--data", folder, "--out", os.path.join(folder, out), "--size", "tiny", "--device", "cpu",
                                "--no-compile", "--quiet", "--block", "clla-int4", "--tokens", "15360", "--rate", "3e-3", *more])

    def train(self, *words):
        options, config, recipe = self.command(*words)
        return train.train(options.size, config, recipe, options)

    def test_it_learns_and_is_repeatable(self):
        folder = self.folder()
        first, second = self.train(folder, "a"), self.train(folder, "b")
        self.assertTrue(first["finished"])
        self.assertLess(first["loss"], 4.5)  # log 256 is 5.55, log 19 is 2.94
        self.assertEqual(first["loss"], second["loss"])

    def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(self):
        for optimizer in ("adamw", "muon"):
            folder, more = self.folder(), ("--optimizer", optimizer)
            whole = self.train(folder, "a", *more)
            self.assertLess(whole["loss"], 4.5)
            options, config, recipe = self.command(folder, "b", *more)
            original, train.Stop = train.Stop, lambda deadline: Countdown(11)
            self.assertIsNone(train.train(options.size, config, recipe, options))
            train.Stop = original
            (stopped,) = table.runs(os.path.join(folder, "b"))
            self.assertEqual((stopped["finished"], stopped["diverged"], stopped["loss"]), (False, False, None))
            self.assertEqual(self.train(folder, "b", *more)["loss"], whole["loss"])
            self.assertEqual(self.logs(folder, "a")[:-1], self.logs(folder, "b")[:-1])
        slower = self.train(self.folder(), "a", "--optimizer", "muon", "--others-rate", "0.25")
        self.assertNotEqual(slower["loss"], whole["loss"])
        with self.assertRaisesRegex(ValueError, "adamw or muon"):
            self.train(self.folder(), "a", "--optimizer", "sgd")
        with self.assertRaisesRegex(ValueError, "there are no others"):
            self.train(self.folder(), "a", "--others-rate", "0.25")

    def logs(self, folder, out):
        (name,) = [n for n in os.listdir(os.path.join(folder, out)) if n.endswith(".jsonl")]
        with open(os.path.join(folder, out, name)) as log:
            lines = [json.loads(line) for line in log]
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]

    def test_divergence_is_logged(self):
        folder = self.folder()
        self.assertIsNone(self.train(folder, "a", "--rate", "1e30"))
        self.assertEqual(self.logs(folder, "a")[-1], dict(event="end", finished=False, diverged=True))

    def test_schedules(self):
        recipe = train.Recipe(rate=1.0, warm_up=0.1, grid_from=0.2, grid_full=0.4)
        rates = [train.rate_at(i, 100, recipe) for i in range(100)]
        self.assertAlmostEqual(rates[0], 0.1)
        self.assertAlmostEqual(max(rates), 1.0)
        self.assertLess(rates[-1], 0.02)
        self.assertEqual([round(train.strength_at(i, 100, recipe), 2) for i in (0, 20, 30, 40, 99)], [0, 0, 0.5, 1, 1])

    def test_what_is_stored_is_made_at_its_own_rate(self):
        for block in ("mha", "clla-int4"):
            for name in ("adamw", "muon"):
                model = Model(tiny(block))
                recipe = train.Recipe(optimizer=name, writer_rate=0.5)
                groups = [g for o in train.optimizers_of(model, recipe, "cpu") for g in o.param_groups]
                slow = {p for g in groups if g.get("share") == 0.5 for p in g["params"]}
                parts = ("key_value",) if block == "mha" else ("down",)
                self.assertEqual(slow, {p for n, p in model.named_parameters() if n.split(".")[-2] in parts})
                self.assertEqual(sum(len(g["params"]) for g in groups), len(list(model.parameters())))
        model = Model(tiny("clla-int4"))
        _, muon = train.optimizers_of(model, train.Recipe(optimizer="muon", fan_in_power=0.5), "cpu")
        shares = {p: g["share"] for g in muon.param_groups for p in g["params"]}
        self.assertAlmostEqual(shares[model.layers[0].attention.up_key.weight], (32 / 16) ** 0.5)
        self.assertAlmostEqual(shares[model.layers[0].attention.out.weight], (32 / 64) ** 0.5)
        with self.assertRaisesRegex(ValueError, "for Muon"):
            train.optimizers_of(model, train.Recipe(fan_in_power=0.5), "cpu")

    def test_siblings_see_the_same_text(self):
        text = torch.arange(5000, dtype=torch.int16)
        a = train.batch_at(5, 100, text, 8, tiny("mha"), train.Recipe(seed=1))
        b = train.batch_at(5, 100, text, 8, tiny("clla-int4"), train.Recipe(seed=1))
        self.assertTrue(torch.equal(a, b))
        self.assertFalse(torch.equal(a, train.batch_at(6, 100, text, 8, tiny("mha"), train.Recipe(seed=1))))

    def test_an_epoch_shows_every_token_once(self):
        seen = torch.stack([train.starts_at(step, 5000, 7, 64, seed=3) for step in range(11)]).flatten()  # 77 rows an epoch
        offset = int(seen.min())
        self.assertLess(offset, 64)
        self.assertEqual(sorted(seen.tolist()), list(range(offset, offset + 77 * 64, 64)))
        self.assertNotEqual(seen.tolist(), sorted(seen.tolist()))
        self.assertLessEqual(int(seen.max()) + 65, 5000)
        again = torch.stack([train.starts_at(step, 5000, 7, 64, seed=3) for step in range(11, 22)]).flatten()
        self.assertNotEqual(seen.tolist(), again.tolist())
        text = torch.arange(5000, dtype=torch.int16)
        rows = train.batch_at(2, 100, text, 7, tiny("mha"), train.Recipe(seed=3, exercises=0.0, epochs=True))
        self.assertEqual(rows[:, 0].tolist(), seen[14:21].tolist())

    def test_exercises_repeat_a_span(self):
        text = torch.zeros(5000, dtype=torch.int16)
        batch = train.batch_at(0, 100, text, 64, tiny("mha"), train.Recipe(exercises=1.0))
        for row in batch.tolist():
            written = [t for t in row if t]
            self.assertGreaterEqual(len(written), 16)
            self.assertEqual(written[:len(written) // 2], written[len(written) // 2:])
        fewer = train.Recipe(exercises=0.8, exercises_fall=0.5)
        self.assertEqual([round(train.exercises_at(s, 10, fewer), 6) for s in (0, 5, 10)], [0.8, 0.6, 0.4])
        batch = train.batch_at(0, 100, text, 64, tiny("mha"), train.Recipe(exercises=0.0))
        self.assertEqual(batch.sum().item(), 0)

    def test_notes_come_again(self):
        text, digits = torch.zeros(5000, dtype=torch.int16), torch.arange(200, 211)
        config = dataclasses.replace(tiny("mha"), context=256)
        recipe = train.Recipe(exercises=1.0, numbers=True)
        rows = torch.cat([train.batch_at(step, 100, text, 32, config, recipe, digits) for step in range(2)])
        noted = 0
        for row in rows.tolist():
            spaces = [i for i, token in enumerate(row) if token == 200 and all(t > 200 for t in row[i + 1:i + 6]) and i % 16 == 3]
            if len(spaces) != 8:
                continue
            noted += 1
            notes = [tuple(row[i - 3:i + 6]) for i in spaces]
            self.assertEqual(sorted(notes[:4]), sorted(notes[4:]))
        self.assertGreater(noted, 16)
        self.assertLess(noted, 48)  # the others copy
        self.assertTrue(torch.equal(rows[:32], train.batch_at(0, 100, text, 32, config, recipe, digits)))
        with self.assertRaisesRegex(ValueError, "context of 128"):
            train.batch_at(0, 100, text, 32, tiny("mha"), recipe, digits)

    def test_names_tell_runs_apart(self):
        names = set()
        for idea in INT4_IDEAS:
            config = filled(Config(block="clla-int4", **SIZES["small"], **idea))
            names.add(train.run_name("small", config, train.Recipe()))
        self.assertEqual(len(names), len(INT4_IDEAS))

    def test_the_verdict_follows_from_the_seeds(self):
        def runs(variant, losses, share):
            return [dict(loss=x, seed=i, share_of_mha=share) for i, x in enumerate(losses)]
        mha = runs("mha", (2.001, 2.0, 1.999), 1)
        for losses, words in (((2.002, 2.0, 2.001), "**Within"), ((2.02, 2.02, 2.021), "**Not within"),
                              ((2.1, 2.0, 2.001), "**Not settled**"), ((2.0, 2.0), "No claim")):
            said = table.verdict({("mha", ""): mha, ("clla-int4", "x"): runs("clla-int4", losses, 0.01855)})[0]
            self.assertIn(words, said)
        too_large = {("mha", ""): mha, ("clla-int4", ""): runs("clla-int4", (2.0, 2.0, 2.0), 0.019)}
        self.assertIn("No claim", table.verdict(too_large)[0])

    def test_sweep_and_table(self):
        folder = self.folder()
        plan = [dict(block="clla-int4", size="tiny", tokens=2048, rate=r) for r in (1e-3, 3e-3)]
        plan += [dict(block="clla-int4", size="tiny", tokens=2048, rate="best", seed=1)]
        out = os.path.join(folder, "logs")
        sweep.run(plan, folder, out, workers=2, minutes=60, extra=["--device", "cpu", "--no-compile", "--quiet"],
                  archive=os.path.join(folder, "logs.tgz"))
        with tarfile.open(os.path.join(folder, "logs.tgz")) as packed:
            self.assertEqual(len(packed.getnames()), 3)
        runs = table.runs(out)
        self.assertEqual(len(runs), 3)
        for run in runs:
            for field in ("variant", "size", "seed", "parameters", "tokens", "learning_rate", "bytes_per_token_per_layer",
                          "share_of_mha", "loss", "passkey", "finished"):
                self.assertIn(field, run)
        best = {r["variant"]: r["learning_rate"] for r in runs if r["seed"] == 1}
        for block in best:
            rates = {r["learning_rate"]: r["loss"] for r in runs if r["seed"] == 0 and r["variant"] == block}
            self.assertEqual(best[block], min(rates, key=rates.get))
        table.write(out)
        self.assertTrue(os.path.exists(os.path.join(out, "summary.json")))

        # Quantized otherwise after training, it is no seed of itself; and one that would be taken for one is refused.
        log = os.path.join(out, runs[0]["name"])
        start, *rest = table.read(log + ".jsonl")
        for bits, rotary_bits, row_bytes, words in ((4, 16, 50, "rotary_bits=16"), (8, 8, 60, "bits=8"), (8, 4, 55, "bits=8 rotary_bits=4"),
                                                    (4, 4, 38, ""), (4, 4, 39, None)):
            changed = start | dict(config=start["config"] | dict(bits=bits, rotary_bits=rotary_bits), bytes_per_token_per_layer=row_bytes,
                                   recipe=start["recipe"] | dict(after=True))
            with open(f"{log}-{bits}-{rotary_bits}-{row_bytes}.jsonl", "w") as file:
                file.writelines(json.dumps(line) + "\n" for line in [changed, *rest])
            if words is None:
                self.assertRaisesRegex(ValueError, "would count as seeds of one another", table.groups, table.runs(out))
            else:
                (found,) = [r for r in table.runs(out) if r["bytes_per_token_per_layer"] == row_bytes and "after" in r["idea"]]
                self.assertEqual(found["idea"], (words + " after=True").strip())
                table.groups(table.runs(out))


class TheText(unittest.TestCase):
    def test_markup_goes_and_prose_stays(self):
        page = "<head><title>x</title></head><p>Tom &amp; <b>Ann</b></p><script>var a</script><li>two</li>"
        self.assertEqual(data.html_text(page).split(), ["Tom", "&", "Ann", "two"])
        self.assertEqual(data.pod_text("=head1 NAME\n\nsee L<perlfunc> and B<I<this>>\n").split(),
                         ["NAME", "see", "perlfunc", "and", "this"])
        self.assertEqual(data.roff_text('.TH A 3\n.SH NAME\nopen \\- \\fIopen\\fP a file\n.\\" no\n').split(),
                         ["NAME", "open", "-", "open", "a", "file"])

    def test_a_paragraph_is_kept_once_and_tables_never(self):
        seen, prose = set(), "This is a paragraph of plain English prose, long enough to keep."
        self.assertEqual(data.clean(prose + "\n\n0x00 0x01 0x02 0x03 0x04 0x05 0x06 0x07 0x08 0x09", seen), prose)
        self.assertEqual(data.clean(prose, seen), "")

    def test_a_document_is_held_out_by_its_path_alone(self):
        share = sum(data.held_out(f"a/{i}.html") for i in range(5000)) / 5000
        self.assertAlmostEqual(share, 1 / data.HELD_OUT_ONE_IN, delta=0.006)


class Countdown:
    """Asks to stop at the n-th question."""

    def __init__(self, n):
        self.n = n

    def __bool__(self):
        self.n -= 1
        return self.n <= 0


class Probes(unittest.TestCase):
    def test_a_model_that_copies_scores_one(self):
        class Copier(torch.nn.Module):
            config = tiny("mha")

            def forward(self, tokens):  # what followed the last earlier occurrence of this token
                logits = torch.zeros(*tokens.shape, 256)
                for row in range(tokens.shape[0]):
                    last = {}
                    for i, token in enumerate(tokens[row].tolist()):
                        if token in last:
                            logits[row, i, tokens[row, last[token] + 1]] = 1
                        last[token] = i
                return logits

        text = torch.zeros(500, dtype=torch.int16)
        share, _ = evaluate.copying(Copier(), text, "cpu")
        self.assertGreater(share, 0.8)  # now and then a code repeats within the span

    def test_uniform_guess_costs_log_of_the_vocabulary(self):
        class Uniform(torch.nn.Module):
            config = tiny("mha")

            def forward(self, tokens):
                return torch.zeros(*tokens.shape, 256)

        loss, by_position = evaluate.held_out_loss(Uniform(), torch.zeros(1000, dtype=torch.int16), "cpu")
        self.assertAlmostEqual(loss, math.log(256), places=4)
        self.assertEqual(len(by_position), 16)


if __name__ == "__main__":
    unittest.main()
