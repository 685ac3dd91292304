"""What is given is used as the model's own forward uses it, or refused by name; batch and padding decide nothing."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import SPECIAL_IDS, build, choose, masking, text
from objectives import batch_of, make, models
from transformers import GPT2Config, GPT2LMHeadModel

import diito
from diito.evaluation.held_out.interchange import interchange_counts
from diito.evaluation.held_out.perplexity import token_losses
from diito.evaluation.held_out.text import HeldOut

FAMILIES = ("bert", "distilbert", "roberta")


class Lines:
    """Rows of several lengths."""

    def __init__(self, lengths):
        self.rows = [text(seed, [length])["input_ids"][0] for seed, length in enumerate(lengths)]
        self.documents = np.arange(len(lengths))

    def __len__(self):
        return len(self.rows)

    def __getitems__(self, indices):
        return [{"input_ids": self.rows[index]} for index in indices]


def padded(rows, side, width, **more):
    """Rows of ``text`` padded on a side, with the position of each token in its own row."""
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for row, tokens in enumerate(rows):
        place = slice(0, len(tokens)) if side == "right" else slice(width - len(tokens), width)
        ids[row, place], mask[row, place] = tokens, 1
    return {"input_ids": ids, "attention_mask": mask, **more}


@pytest.fixture(scope="module", params=[*FAMILIES, "gpt2"])
def model(request):
    if request.param != "gpt2":
        return build(request.param, 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(vocab_size=60, n_positions=40, n_embd=16, n_layer=3, n_head=2)).eval()


@torch.no_grad()
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(4, 12), min_size=1, max_size=4),
    side=st.sampled_from(["left", "right"]),
    spare=st.integers(0, 5),
    layer=st.integers(0, 2),
)
def test_padding_and_batch_decide_no_interchange(model, lengths, side, spare, layer):
    base, source = Lines(lengths).rows, [row.flip(0) for row in Lines(lengths).rows]
    width = max(lengths) + spare
    batches = []
    for rows in (base, source):
        batch = padded(rows, side, width)
        if model.config.model_type != "roberta":  # which counts its positions from the first word by itself
            batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        batches.append(batch)
    starts = [0 if side == "right" else width - length for length in lengths]
    swapped = choose(*([start + 1, start + 2] for start in starts), width=width)
    together = diito.interchange(model, *batches, [layer], swapped)
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        alone = diito.interchange(
            model, {"input_ids": base[row][None]}, {"input_ids": source[row][None]}, [layer], choose([1, 2], width=length)
        )
        assert torch.allclose(together[row, start : start + length], alone[0], atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_and_padding_decide_no_measurement(family):
    student, teacher = build(family, 2, seed=1), build(family, 3, seed=2)
    pairs = list(diito.Alignment.full(teacher_layers=3, student_layers=2).pairs)
    measured = []
    for batch in (1, 2, 6):
        held_out = HeldOut(Lines((9, 5, 12, 7, 12, 4)), masking(0.3), seed=5, batch=batch)
        sums = token_losses(student, held_out)
        counts = interchange_counts(student, teacher, pairs, held_out, special_ids=SPECIAL_IDS)
        measured.append((sums.losses, sums.tokens, *numbers(counts.as_json())))
    for each in measured[1:]:
        assert all(np.allclose(ours, theirs, atol=1e-4) for ours, theirs in zip(each, measured[0], strict=True))


def numbers(content):
    """Every list of numbers in JSON."""
    if isinstance(content, dict):
        return [number for value in content.values() for number in numbers(value)]
    found = np.asarray(content) if isinstance(content, list) else np.asarray("")
    return [found] if found.dtype.kind in "iuf" else []


@pytest.mark.parametrize("side", ["left", "right"])
def test_masks_are_those_of_the_row_wherever_its_padding_stands(side):
    rows = Lines((9, 5, 12)).rows
    batch = masking(0.3).mask_examples(padded(rows, side, 14), seed=1, examples=range(3))
    for row, tokens in enumerate(rows):
        alone = masking(0.3).mask_examples({"input_ids": tokens[None]}, seed=1, examples=[row])
        real = batch["attention_mask"][row].bool()
        assert torch.equal(batch["input_ids"][row, real], alone["input_ids"][0])
        assert torch.equal(batch["labels"][row, real], alone["labels"][0])
        places = batch["masked_positions"][row]
        assert torch.equal(places[places >= 0], (batch["labels"][row] != -100).nonzero().flatten())


INPUTS = {"input_ids": torch.arange(5, 14).view(1, 9)}
NOT_READ = {
    "inputs_embeds": torch.zeros(1, 9, 16),
    "past_key_values": torch.zeros(1),
    "special_tokens_mask": torch.zeros(1, 9),
    "output_attentions": torch.ones(1),
    "attention_mask": torch.ones(1, 1, 9, 9),
}


@pytest.mark.parametrize("name", NOT_READ)
def test_what_is_not_read_is_refused_by_name(name):
    bert = build("bert")
    with pytest.raises(ValueError, match=f"^inputs: .*{name}"):
        diito.get_values(bert, INPUTS | {name: NOT_READ[name]}, [0])
    with pytest.raises(ValueError, match=f"^inputs: .*{name}"):
        diito.interchange(bert, INPUTS, INPUTS | {name: NOT_READ[name]}, [0], choose([1], width=9))


def test_words_are_needed():
    with pytest.raises(ValueError, match=r"^inputs: need input_ids"):
        diito.get_values(build("bert"), {"inputs_embeds": torch.zeros(1, 9, 16)}, [0])


def test_token_types_are_dropped_only_where_they_say_nothing():
    distilbert = build("distilbert")
    diito.get_values(distilbert, INPUTS | {"token_type_ids": torch.zeros(1, 9, dtype=torch.long)}, [0])
    with pytest.raises(ValueError, match="DistilBertForMaskedLM does not read 'token_type_ids'"):
        diito.get_values(distilbert, INPUTS | {"token_type_ids": torch.ones(1, 9, dtype=torch.long)}, [0])


def test_the_objective_reads_or_refuses_every_entry():
    student, teacher = models("bert")
    objective, batch = make(student, teacher), batch_of()
    plain = objective(batch, step=0)
    positions = torch.arange(8, -1, -1).expand(3, 9)
    assert objective(batch | {"position_ids": positions}, step=0)["loss"] != plain["loss"]
    for name in ("length", "source_length"):
        with pytest.raises(ValueError, match="does not read 'length'"):
            objective(batch | {name: torch.ones(3), "source_input_ids": batch["input_ids"]}, step=0)


def test_words_at_the_ends_of_rows_are_not_left_out_in_silence():
    student, teacher = models("bert")
    words = batch_of() | {"input_ids": torch.arange(5, 32).view(3, 9)}
    with pytest.warns(UserWarning, match="special_ids is not given"):
        make(student, teacher)(words, step=0)
    make(student, teacher, special_ids=[])(words, step=0)
    make(student, teacher)(batch_of(), step=0)


def test_a_swap_of_the_same_tokens_shows():
    student, teacher = models("bert")
    objective = make(student, teacher, control="token-swap")
    objective(batch_of(), step=0)
    assert 0 < float(objective.changed) <= 1
    alike = batch_of()
    alike = {**alike, "input_ids": alike["input_ids"][:1].expand(3, 9)}
    objective(alike, step=0)
    assert float(objective.changed) == 0
    plain = make(student, teacher)
    plain(batch_of(), step=0)
    assert plain.changed is None
