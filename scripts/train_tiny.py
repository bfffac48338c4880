"""Train the embedded model from nothing: `python scripts/train_tiny.py --out script_vlmeval/assets/tiny`.

Two stages, one seed. First the vision tower learns what lies under each patch: linear heads on the projector output name its
colour and shape, and a text tower learns to point at the patches that a question is about (sigmoid contrastive loss through
`post_layernorm` and `visual_projection`, as CLIP relevance is computed). Then the language model learns to answer, many
independent questions packed behind one picture by a block mask, objects added step by step; its middle must know where the
objects are that the question names. The first losses go on with a small weight. Everything is drawn on the fly; the test split
uses seeds of its own (`script_vlmeval/tiny.py`).
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch  # 2.9 or newer, for Muon
from torch import Tensor, nn
from torch.nn import functional as F

from script_vlmeval import shapes, tiny

BUDGETS = (72, 36, 16)  # visual tokens that a thinned batch keeps
LENGTH = 104  # room for packed questions; with their answers they take 8 tokens on average
PACKED = 12  # questions drawn per picture; those that do not fit are left out
TEXT = 14  # longest question between begin and end tokens


class Batch:
    """Pictures with packed questions, as tensors. Targets are flat: one row per question that fitted."""

    def __init__(self, rng: np.random.Generator, size: int, most: int) -> None:
        scenes = [shapes.draw(rng, most) for _ in range(size)]
        pixels = np.stack([s.pixels for s in scenes])
        self.pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        owner = np.stack([s.owner for s in scenes])
        colors = list(shapes.COLORS)
        self.color = torch.from_numpy(np.stack([_labels(s, [1 + colors.index(t.color) for t in s.things]) for s in scenes]))
        self.shape = torch.from_numpy(
            np.stack([_labels(s, [1 + shapes.SHAPES.index(t.shape) for t in s.things]) for s in scenes])
        )
        self.ids = torch.zeros(size, LENGTH, dtype=torch.long)
        self.block = torch.full((size, LENGTH), PACKED + 1)
        self.position = torch.zeros(size, LENGTH, dtype=torch.long)
        self.text = torch.zeros(size, PACKED, TEXT, dtype=torch.long)
        self.about = torch.zeros(size, PACKED, tiny.N_VISUAL)
        self.kind: list[str] = []
        at, answers = [], []
        named: list[tuple[int, int, float, float]] = []  # picture, place in the text, centre of the object named there
        for b, scene in enumerate(scenes):
            end = 0
            for j, q in enumerate(questions(scene, rng, PACKED)):
                words, answer = tiny.word_ids(q.text), tiny.word_ids(q.answer)[0]
                self.text[b, j, : len(words) + 2] = torch.tensor([tiny.BOS, *words, tiny.EOS])
                self.about[b, j] = torch.from_numpy(np.isin(owner[b], q.about)).float()
                start, end = end, end + len(words) + 1
                if end > LENGTH:
                    end = start
                    continue
                self.ids[b, start:end] = torch.tensor([*words, answer])
                self.block[b, start:end] = j + 1
                self.position[b, start:end] = torch.arange(end - start)
                at.append((b, end - 2))
                answers.append(answer)
                self.kind.append(q.kind)
                named += [(b, start + word, *_place(scene.things[i])) for word, i in _nouns(q, len(words))]
        found = torch.tensor(named)
        self.noun, self.noun_place = found[:, :2].long(), found[:, 2:]
        self.at, self.answer = torch.tensor(at), torch.tensor(answers)

    def layout(self, start: int) -> tuple[Tensor, Tensor]:
        """Positions and block mask behind a prompt of `start` tokens: every question sees the picture and itself, at the
        positions that it has when asked alone."""
        prompt = torch.arange(start).expand(len(self.ids), -1)
        block = torch.cat([torch.zeros_like(prompt), self.block], 1)
        n = block.shape[1]
        mask = torch.ones(n, n, dtype=torch.bool).tril() & ((block[:, :, None] == block[:, None]) | (block == 0)[:, None])
        return torch.cat([prompt, self.position + start], 1), mask[:, None]


def _labels(scene: shapes.Scene, label: list[int]) -> np.ndarray:
    """The label of the object under each patch, 0 for background."""
    return np.array([*label, 0])[scene.owner]


def _place(thing: shapes.Thing) -> tuple[float, float]:
    """The centre of an object, each coordinate in [-1, 1]."""
    return thing.x / shapes.SIZE * 2 - 1, thing.y / shapes.SIZE * 2 - 1


def _nouns(q: shapes.Question, words: int) -> list[tuple[int, int]]:
    """(word, object) where a word of the question completes the name of one object."""
    if q.kind == "relation":
        return [(3, q.about[0]), (words - 1, q.about[1])]
    return [(words - 1, q.about[0])] if q.kind != "count" and q.answer != "no" and len(q.about) == 1 else []


def questions(scene: shapes.Scene, rng: np.random.Generator, n: int) -> Iterator[shapes.Question]:
    """n questions of all kinds; a third of existence and relation questions in their yes/no form."""
    while n:
        kind = shapes.KINDS[rng.choice(5, p=[0.2, 0.12, 0.18, 0.15, 0.35])]
        if kind in ("exist", "relation") and rng.random() < 0.35:
            q = shapes.ask_yes_no(scene, rng)[int(rng.random() < 0.5)]
        else:
            q = shapes.ask(scene, kind, rng)
        if q is not None:
            n -= 1
            yield q


class Trainer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.llava, self.text = tiny.build()
        width = self.llava.config.text_config.hidden_size
        self.background = nn.Parameter(torch.zeros(1, width))
        self.sharpness = nn.Parameter(torch.tensor(5.0))
        self.place, self.find = nn.Linear(width, 2), nn.Linear(width, 2)
        self.middle: Tensor | None = None
        self.llava.model.language_model.layers[3].register_forward_hook(self._keep)
        self.visual_projection = nn.Linear(tiny.VISION["hidden_size"], tiny.VISION["projection_dim"], bias=False)
        self.scale, self.bias = nn.Parameter(torch.tensor(10.0)), nn.Parameter(torch.tensor(-4.0))

    def _keep(self, module: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        self.middle = output[0] if isinstance(output, tuple) else output

    def see(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the language model reads, the patches and the picture in the space shared with text."""
        tower = self.llava.model.vision_tower
        out = tower(pixels, output_hidden_states=True)
        selected = out.hidden_states[-2][:, 1:]
        norm = getattr(tower, "vision_model", tower).post_layernorm
        patches = F.normalize(self.visual_projection(norm(selected)), dim=-1)
        picture = F.normalize(self.visual_projection(out.pooler_output), dim=-1)
        return self.llava.model.multi_modal_projector(selected), patches, picture

    def alignment(self, batch: Batch, visual: Tensor, patches: Tensor, picture: Tensor, some: int) -> tuple[Tensor, Tensor]:
        """Patch labels in the space of word embeddings, and the contrastive losses of `some` questions per picture."""
        labels = self.where(visual)
        labels = (
            labels + self.name(visual, list(shapes.COLORS), batch.color) + self.name(visual, list(shapes.SHAPES), batch.shape)
        )
        ids = batch.text[:, :some].flatten(0, 1)
        embeds = self.text(input_ids=ids, attention_mask=(ids != 0).long()).text_embeds
        t = F.normalize(embeds, dim=-1).view(len(patches), some, -1)
        near = torch.einsum("bqc,bnc->bqn", t, patches) * self.scale + self.bias
        points = F.binary_cross_entropy_with_logits(near, batch.about[:, :some], pos_weight=torch.tensor(3.0))
        # the picture as a whole agrees with the questions asked about it more than with those asked about the others
        whole = torch.einsum("bc,aqc->bqa", picture, t) * self.scale
        match = F.cross_entropy(whole.flatten(0, 1), torch.arange(len(whole)).repeat_interleave(some))
        return labels, points + 0.05 * match

    def name(self, visual: Tensor, words: list[str], label: Tensor) -> Tensor:
        """A patch must lie near the embedding of the word that names it, so that question words find it by similarity."""
        table = self.llava.model.language_model.embed_tokens.weight[[tiny.VOCAB[w] for w in words]]
        logits = visual @ torch.cat([self.background, table]).T * self.sharpness
        return F.cross_entropy(logits.flatten(0, 1), label.flatten())

    def where(self, visual: Tensor) -> Tensor:
        """A patch must know its place in the picture: naming alone makes the tower forget it, and relations need it."""
        at = torch.arange(tiny.N_VISUAL)
        target = torch.stack([at % shapes.GRID, at // shapes.GRID], 1) / (shapes.GRID - 1) * 2 - 1
        return F.mse_loss(self.place(F.rms_norm(visual.float(), visual.shape[-1:])), target.expand(len(visual), -1, -1))

    def answers(self, batch: Batch, visual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of answer and end token, loss of finding what nouns name, and which answers were right."""
        lm = self.llava.model.language_model
        start = lm.embed_tokens(torch.full((len(visual), 1), tiny.BOS))
        x = torch.cat([start, visual, lm.embed_tokens(batch.ids)], 1)
        prompt = 1 + visual.shape[1]
        positions, mask = batch.layout(prompt)
        h = lm(inputs_embeds=x, position_ids=positions, attention_mask=mask, use_cache=False).last_hidden_state
        row, column = batch.at.T
        column = column + prompt
        logits = self.llava.lm_head(torch.stack([h[row, column], h[row, column + 1]]))
        answer = F.cross_entropy(logits[0], batch.answer)
        end = F.cross_entropy(logits[1], torch.full_like(batch.answer, tiny.EOS))
        assert self.middle is not None
        row, column = batch.noun.T
        noun = self.middle[row, column + prompt].float()
        found = F.mse_loss(self.find(F.rms_norm(noun, noun.shape[-1:])), batch.noun_place)
        return answer + 0.1 * end, found, logits[0].argmax(-1) == batch.answer


def thinned(visual: Tensor, rng: np.random.Generator) -> Tensor:
    """A random subset of each picture's tokens, in order. Now and then seeing fewer tokens, whichever they are, keeps the model
    from taking their number, or the background, for a signal. These subsets are what the method `random` keeps at these
    budgets, so if the training favours a method, it is that one."""
    keep = BUDGETS[rng.integers(len(BUDGETS))]
    index = np.sort(rng.permuted(np.tile(np.arange(tiny.N_VISUAL), (len(visual), 1)), axis=1)[:, :keep], axis=1)
    return visual[torch.arange(len(visual))[:, None], torch.from_numpy(index)]


def optimizers(model: nn.Module, lr: float, muon: bool) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside layers, AdamW for the rest; with Muon shape is learned markedly sooner."""
    hidden, rest = [], []
    for name, p in model.named_parameters():
        wanted = muon and p.ndim == 2 and "layers" in name
        (hidden if wanted else rest).append(p)
    made: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)]
    if hidden:
        made.append(torch.optim.Muon(hidden, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"))
    return made


def train(args: argparse.Namespace) -> Trainer:
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(args.seed)
    model = Trainer()
    opts = optimizers(model, args.lr, args.muon)
    base = [[g["lr"] for g in o.param_groups] for o in opts]
    total, t0 = args.see + args.answer, time.time()
    hits: dict[str, list[float]] = defaultdict(list)
    for step in range(total):
        if step < args.see:
            factor = min(1, (step + 1) / 100) * (1 - 0.5 * step / args.see)
        else:
            s = step - args.see
            factor = min(1, (s + 1) / 100) * (0.5 * (1 + math.cos(math.pi * s / args.answer)) * 0.98 + 0.02)
        for o, lrs in zip(opts, base, strict=True):
            for g, lr in zip(o.param_groups, lrs, strict=True):
                g["lr"] = lr * factor
        answering = step >= args.see
        most = 5 if not answering else 2 if s < args.answer * 0.1 else 3 if s < args.answer * 0.2 else 5
        batch = Batch(rng, args.batch, most)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            visual, patches, picture = model.see(batch.pixels)
            labels, points = model.alignment(batch, visual, patches, picture, PACKED if not answering else 4)
            loss = labels + points
            if answering:
                thin = s > args.answer * 0.4 and rng.random() < 0.3
                answer, found, right = model.answers(batch, thinned(visual, rng) if thin else visual)
                loss = answer + (0.2 if thin else 1.0) * found + 0.2 * loss
                for kind, ok in () if thin else zip(batch.kind, right.tolist(), strict=True):
                    hits[kind].append(ok)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in opts:
            o.step()
            o.zero_grad()
        if step % args.log == args.log - 1:
            accuracy = {k: round(float(np.mean(v[-1500:])), 3) for k, v in sorted(hits.items())}
            losses = f"find {found.item() if answering else math.nan:.3f} labels {labels.item():.3f} points {points.item():.3f}"
            print(f"{step + 1} {time.time() - t0:.0f}s {losses} {accuracy}", flush=True)
        if args.save_every and step % args.save_every == args.save_every - 1:
            tiny.save(model.llava, model.text, model.visual_projection.weight.detach(), Path(args.out + ".partial"))
    tiny.save(model.llava, model.text, model.visual_projection.weight, Path(args.out))
    return model


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--see", type=int, default=600)
    p.add_argument("--answer", type=int, default=1700)
    p.add_argument("--batch", type=int, default=24)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--muon", action=argparse.BooleanOptionalAction, default=True)
    p.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    p.add_argument("--log", type=int, default=50)
    p.add_argument("--save-every", type=int, default=250)
    train(p.parse_args())


if __name__ == "__main__":
    main()
