# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""python -m unittest test_convert                       (about ten seconds)"""

import unittest

import torch

import convert
import latent_form
import llama
from model import rotate, rotary_angles

SHAPE = llama.Shape(width=48, layers=4, heads=4, kv_heads=2, head_dim=16, feed_forward=64, vocabulary=96, rotary_base=1e4,
                    epsilon=1e-5)


def teacher_of(shape=SHAPE, seed=0):
    torch.manual_seed(seed)
    model = llama.Llama(shape).double()
    for p in model.parameters():
        if p.dim() == 2:
            torch.nn.init.normal_(p, std=1.5 * p.shape[1] ** -0.5)
    return model.eval().requires_grad_(False)


def windows(rows, length, seed=1):
    return torch.randint(0, SHAPE.vocabulary, (rows, length), generator=torch.Generator().manual_seed(seed))


def moments_of(teacher, rows=48, length=64):
    moments = latent_form.Moments(teacher)
    for row in windows(rows, length):
        moments.add(teacher, row[None])
    return moments


class TheStart(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.teacher = teacher_of()
        cls.moments = moments_of(cls.teacher)

    def student(self, latent, rotary, bits=16, net=0):
        student = latent_form.student_of(self.teacher, latent, rotary, bits, net).double()
        latent_form.start(student, self.teacher, self.moments, say=lambda *a, **k: None)
        return student.eval()

    def error(self, student):
        with torch.no_grad():
            return convert.fit_loss(student, self.teacher, windows(4, 64, seed=2)).item()

    def leaders_error(self, student):
        """Of the leaders' layers alone, which a form that is wide enough must reproduce."""
        tokens, rows, total = windows(4, 64, seed=2), [], 0.0
        x, angles = self.teacher.embedding(tokens), rotary_angles(SHAPE.head_dim, 64, SHAPE.rotary_base)
        for l, (old, new) in enumerate(zip(self.teacher.layers, student.layers)):
            h = old.attention_norm(x)
            wanted, got = old.attention(h, [], angles), new.attention(h, rows, None)
            if l % 2 == 0:
                total += ((got - wanted)[:, 1:].square().sum() / wanted[:, 1:].square().sum()).item()
            x = old(x, [], angles)
        return total / 2

    def test_a_form_that_is_wide_enough_is_the_leader_exactly(self):
        # all directions of all frequencies turn, so nothing of a key is dropped; the latent holds keys and values of both
        self.assertLess(self.leaders_error(self.student(latent=128, rotary=64)), 1e-6)

    def test_narrower_is_worse_and_bits_cost(self):
        errors = [self.error(self.student(latent, rotary, bits)) for latent, rotary, bits in
                  ((128, 64, 16), (48, 32, 16), (16, 8, 16), (16, 8, 2))]
        self.assertEqual(errors, sorted(errors), errors)
        self.assertLess(errors[0] * 1.1, errors[2])

    def test_directions_are_principal(self):
        """Keeping any other directions than those chosen loses more of the weighted turning keys."""
        torch.manual_seed(3)
        m, f = 4, 3
        root = torch.randn(m * f * 2, m * f * 2, dtype=torch.float64)
        cov, weight = root @ root.T, torch.rand(m, f, dtype=torch.float64) + 0.1
        frequency = torch.tensor([1.0, 0.5, 0.3])
        (i, u), *_ = latent_form.principal_turns(cov, weight, frequency, 1)

        def kept(i, u):  # E |u^H z|^2 for z weighted
            block = cov.reshape(m, f, 2, m, f, 2)[:, i, :, :, i, :]
            a = torch.cat((u.real[:, None] * weight[:, i, None].sqrt(), u.imag[:, None] * weight[:, i, None].sqrt()), 1)
            b = torch.cat((-u.imag[:, None] * weight[:, i, None].sqrt(), u.real[:, None] * weight[:, i, None].sqrt()), 1)
            return sum(torch.einsum("mi,minj,nj->", x, block, x).item() for x in (a, b))

        best = kept(i, u)
        for _ in range(50):
            other = torch.randn(m, dtype=torch.complex128)
            for j in range(f):
                self.assertLessEqual(kept(j, other / other.norm()), best * (1 + 1e-9))

    def test_the_constant_of_values_comes_back(self):
        """Values that are all the same need no latent at all."""
        teacher = teacher_of()
        with torch.no_grad():
            for layer in teacher.layers:
                layer.attention.value.weight.mul_(1e-9)
        student = latent_form.student_of(teacher, 16, 8, 16, 0).double()
        latent_form.start(student, teacher, moments_of(teacher, rows=8), say=lambda *a, **k: None)
        self.assertTrue(all(torch.isfinite(p).all() for p in student.parameters()))

    def test_bytes_are_counted_as_kvc_counts_them(self):
        student = latent_form.student_of(self.teacher, 144, 18, 4, 0)
        self.assertEqual(student.layers[0].attention.writer.row_bytes(), 72 + 2 + 9 + 2)

    def test_no_token_sees_the_future(self):
        student, tokens = self.student(16, 8, 4, net=8), windows(2, 40)
        with torch.no_grad():
            before = student(tokens)
            for cut in (1, 20, 39):
                other = tokens.clone()
                other[:, cut:] = windows(2, 40, seed=9)[:, cut:]
                self.assertTrue(torch.allclose(student(other)[:, :cut], before[:, :cut], atol=1e-9))

    def test_odd_numbers_of_layers_are_refused(self):
        import dataclasses
        with self.assertRaisesRegex(ValueError, "do not make pairs"):
            latent_form.student_of(teacher_of(dataclasses.replace(SHAPE, layers=3)), 16, 8)


class Healing(unittest.TestCase):
    def test_both_stages_learn(self):
        teacher = teacher_of().float()
        student = latent_form.student_of(teacher, 16, 8, 4, 8)
        latent_form.start(student, teacher, moments_of(teacher, rows=8), say=lambda *a, **k: None)
        for loss_of, parameters in ((convert.fit_loss, [p for l in student.layers for p in l.attention.parameters()]),
                                    (convert.distil_loss, list(student.parameters()))):
            optimizer, losses = torch.optim.AdamW(parameters, lr=3e-3), []
            for step in range(30):
                loss = loss_of(student, teacher, windows(4, 48, seed=10 + step))
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
            self.assertLess(sum(losses[-5:]), 0.9 * sum(losses[:5]), losses)

    def test_distillation_is_the_divergence(self):
        teacher, other = teacher_of().float(), teacher_of(seed=5).float()
        tokens = windows(3, 20)
        p, q = (m(tokens).log_softmax(-1) for m in (teacher, other))
        wanted = (p.exp() * (p - q)).sum(-1).mean()
        found = convert.distil_loss(other.requires_grad_(True), teacher, tokens, 2)
        self.assertAlmostEqual(found.item(), wanted.item(), places=4)
        self.assertAlmostEqual(convert.distil_loss(teacher, teacher, tokens, 2).item(), 0, places=5)

    def test_the_yardstick_sees_what_its_bytes_pay_for(self):
        mask = convert.window_mask(20, 9, "cpu")
        for i, row in enumerate(mask):
            seen = [j for j, kept in enumerate(row.tolist()) if kept]
            self.assertEqual(seen, sorted(set(range(min(4, i + 1))) | set(range(max(0, i - 4), i + 1))))
        teacher = teacher_of()
        with torch.no_grad():
            whole = teacher(windows(1, 20))
            self.assertTrue(torch.allclose(teacher(windows(1, 20), convert.window_mask(20, 40, "cpu")), whole, atol=1e-9))
            self.assertFalse(torch.allclose(teacher(windows(1, 20), mask), whole, atol=1e-3))

    def test_turning_a_key_is_multiplying_a_complex_number(self):
        x = torch.randn(1, 7, 1, 6, dtype=torch.float64)
        angles = rotary_angles(6, 7, 100.0)
        z = torch.view_as_complex(x.unflatten(-1, (3, 2)))
        turn = torch.polar(torch.ones(7, 3).double(), torch.atan2(angles[1], angles[0]).double())
        turned = torch.view_as_complex(rotate(x, angles).unflatten(-1, (3, 2)))
        self.assertTrue(torch.allclose(turned, z * turn[None, :, None], atol=1e-6))

    def test_points_come_at_each_doubling_and_at_the_end(self):
        at = []
        done_at = convert.each_doubling(100, at.append)
        for tokens in range(30, 1000, 30):
            done_at(tokens, tokens + 30 >= 1000)
        self.assertEqual(at, [120, 210, 420, 810, 990])


if __name__ == "__main__":
    unittest.main()
