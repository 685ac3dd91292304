"""Causal language modelling: what is predicted, what a swap reaches, and the laws of the method on decoders."""

import copy
import dataclasses

import decoders
import numpy as np
import oracle
import pytest
import tiny
import torch
from objectives import EVERY, fixed_pairing, fixed_rule

import diito.method.recompute as recompute
from diito import Alignment, DistillationObjective, build_student, get_values, interchange
from diito.corpus import Framing, load_corpus
from diito.corpus.layouts import blocks
from diito.corpus.tokenise import Chunk, Tokeniser
from diito.recipe import CorpusSection
from diito.refusal import Refusal
from diito.run.parts import survey
from diito.tasks import find_task
from diito.tasks.causal_lm import NextTokens

TASK = find_task("causal-lm")
families = pytest.mark.parametrize("family", decoders.FAMILIES)


def batch_of(rows, **options):
    return NextTokens(1, **options).batch(rows, generator=torch.Generator())


def make(student, teacher, **options):
    return DistillationObjective(
        student,
        teacher,
        Alignment.full(4, 2),
        **{"weights": EVERY, "reach": TASK.reach, "special_ids": [0, 1]} | options,
    ).eval()


def pair(family="llama"):
    """A student that has left its teacher."""
    teacher = decoders.build(family, 4, seed=3)
    student = build_student(teacher, 2).eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(5)
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return student, teacher


def positions_of(*rows, width):
    chosen = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, places in enumerate(rows):
        chosen[row, places] = True
    return chosen


# ------------------------------------------------------------------------------------------------- slots and reach


def test_every_real_token_with_a_real_one_behind_it_is_a_slot():
    batch = batch_of(decoders.text(1, [5, 3]))
    ids = batch["input_ids"]
    assert batch["slots"].tolist() == [[0, 1, 2, 3], [0, 1, -1, -1]]
    assert batch["labels"].tolist() == [ids[0, 1:].tolist(), [*ids[1, 1:3].tolist(), -100, -100]]
    assert batch["swappable"].tolist() == [[True] * 4 + [False], [True, True, False, False, False]]


def test_a_row_of_one_token_has_no_slot():
    assert batch_of({"input_ids": torch.tensor([[3], [4]])})["slots"].tolist() == [[-1], [-1]]


def test_a_swap_reaches_the_slots_at_and_behind_its_first_position():
    slots = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, -1, -1]])
    reach = TASK.reach(slots, positions_of([2, 3], [], [1], width=5))
    assert reach.tolist() == [[False, False, True, True], [False] * 4, [False, True, False, False]]


def test_documents_that_are_kept_apart_begin_anew_and_no_swap_reaches_the_next():
    ids = torch.tensor([[7, 8, 1, 9, 3, 1, 4]])
    batch = batch_of({"input_ids": ids}, documents=Framing(after=(1,)))
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 0]] and batch["documents"].tolist() == [[0, 0, 0, 1, 1, 1, 2]]
    assert batch["slots"].tolist() == [[0, 1, -1, 3, 4, -1]], "the last token of a document predicts nothing"
    assert batch["labels"].tolist() == [[8, 1, -100, 3, 1, -100]]
    reach = TASK.reach(batch["slots"], positions_of([1], width=7), documents=batch["documents"])
    assert reach.tolist() == [[False, True, False, False, False, False]]
    reach = TASK.reach(batch["slots"], positions_of([1, 3], width=7), documents=batch["documents"])
    assert reach.tolist() == [[False, True, False, True, True, False]]


def test_blocks_of_documents_kept_apart_hold_each_document_between_its_tokens(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("w1 w2 w3\nw4\nw5 w6\n")
    section = CorpusSection(sources=[str(path)], length=4, workers=1, cache=str(tmp_path), document_boundaries=True)
    without = load_corpus(section, tokenizer=decoders.tokenizer(adds_bos=False), seed=0)
    assert [row["input_ids"].tolist() for row in without.__getitems__([0, 1])] == [[4, 5, 6, 1], [7, 1, 8, 9]]
    framed = load_corpus(section, tokenizer=decoders.tokenizer(), seed=0)
    assert [row["input_ids"].tolist() for row in framed.__getitems__([0, 1])] == [[0, 4, 5, 6], [0, 7, 0, 8]]


def test_a_document_that_comes_in_pieces_is_framed_once():
    tokeniser = Tokeniser.for_tokenizer(decoders.tokenizer(), field="corpus", framing=Framing((0,), (1,)))

    def sequences(*chunks):
        made = blocks(
            [Chunk(np.array(ids), np.array(sizes), *pieces) for ids, sizes, *pieces in chunks],
            tokeniser,
            length=3,
            dropped={},
            apart=True,
        )
        ids, _, owners = (np.concatenate(each) for each in zip(*made, strict=True))
        return ids.tolist(), owners.tolist()

    whole = sequences(([4, 5, 6, 7, 8, 9], [2, 3, 1]))
    assert whole == ([0, 4, 5, 1, 0, 6, 7, 8, 1, 0, 9, 1], [0, 0, 1, 2])
    pieces = [([4, 5, 6], [2, 1], False, True), ([7], [1], True, True), ([8, 9], [1, 1], True, False)]
    assert sequences(*pieces) == whole


def test_the_last_token_before_the_first_predicted_one_is_the_end_of_a_prefix():
    from diito.method.positions import NAMED_RULES

    eligible = positions_of([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [1, 2], width=6)
    predicted = positions_of([3, 4], [0, 1, 2, 3, 4], [], width=6)
    chosen = NAMED_RULES["prefix-end"](eligible, predicted, 0.3, torch.Generator())
    assert chosen.tolist() == positions_of([2], [], [2], width=6).tolist()


def test_nothing_that_can_change_no_slot_is_swapped():
    student, teacher = pair()
    batch = batch_of(decoders.text(2, [9, 12, 7, 2]))
    objective = make(student, teacher, positions="random", share=1.0)
    for step in range(20):
        positions = objective.draw_swap(batch, step=step).positions
        assert not (positions & ~batch["swappable"]).any() and not positions[:, 0].any()


# ------------------------------------------------------------------------------------------------- laws of the method


@families
def test_losses_equal_those_of_an_oracle_of_hooks(family):
    student, teacher = pair(family)
    rows = decoders.text(1, [9, 12, 7])
    positions, sources = positions_of([3, 4], [5], [2, 3], width=12), [1, 2, 0]
    batch = batch_of(rows)
    objective = make(student, teacher, positions=fixed_rule(positions), pairing=fixed_pairing(*sources))
    step = next(step for step in range(50) if objective.alignment.draw(_draw(objective, step)).student == (0,))
    losses = objective(batch, step=step)

    source = {name: value[sources] for name, value in rows.items()}
    tokens = [(row, p) for row, slots in enumerate(batch["slots"].tolist()) for p in slots if p >= 0]
    reached = [(row, p) for row, p in tokens if positions[row, : p + 1].any()]
    said, told = (oracle.run(model, rows) for model in (student, teacher))
    ours = oracle.interchange(student, rows, source, [0], positions)
    theirs = oracle.interchange(teacher, rows, source, [0, 1], positions)
    following = rows["input_ids"].roll(-1, 1)
    expected = {
        "task": oracle.mlm(said[0], following, tokens),
        "ce": oracle.ce(said[0], told[0], tokens, 2.0),
        "cos": oracle.cos(said[2], told[2], tokens),
        "mse": oracle.mse(said[0], told[0], tokens),
        "causal_ce": oracle.ce(ours[0], theirs[0], reached, 2.0),
        "causal_cos": oracle.cos(ours[1], theirs[1], reached),
    }
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=2e-4, abs=1e-5), name
    assert len(reached) < len(tokens)


def _draw(objective, step):
    from diito.method.draws import host_random

    return host_random("alignment", objective.seed, step)


@families
def test_nothing_before_the_first_swapped_position_moves(family):
    model = decoders.build(family)
    base, source = decoders.text(1, [12, 9]), decoders.text(2, [12, 9])
    before = interchange(model, base, base, [1], positions_of([], [], width=12))
    for layers in ([0], [1], [0, 1], [2]):
        after = interchange(model, base, source, layers, positions_of([5, 6], [3], width=12))
        for row, first in enumerate((5, 3)):
            assert torch.allclose(after[row, :first], before[row, :first], rtol=0, atol=1e-5 if family == "olmoe" else 0)
            assert not torch.allclose(after[row, first], before[row, first])


@families
def test_a_student_that_is_its_teacher_has_nothing_to_learn(family):
    teacher = decoders.build(family, 3)
    objective = DistillationObjective(
        copy.deepcopy(teacher), teacher, Alignment.full(3, 3), weights=EVERY, reach=TASK.reach, special_ids=[0, 1]
    ).eval()
    losses = objective(batch_of(decoders.text(3, [9, 12, 7])), step=1)
    assert all(abs(losses[name].item()) < 1e-6 for name in ("ce", "cos", "causal_ce", "causal_cos"))


def test_without_causal_weights_it_is_plain_distillation_and_swaps_nothing():
    student, teacher = pair()
    batch = batch_of(decoders.text(3, [9, 9, 9]))
    standard = {"task": 1 / 3, "ce": 1 / 3, "cos": 1 / 3}
    plain, zero = (make(student, teacher, weights=each)(batch, step=4) for each in (standard, {**standard, "causal_ce": 0.0}))
    full = make(student, teacher, weights={**standard, "causal_ce": 0.5})(batch, step=4)
    assert plain.keys() == zero.keys() and all(torch.equal(plain[name], zero[name]) for name in plain)
    assert all(torch.equal(plain[name], full[name]) for name in standard)


def test_a_row_that_no_swap_reaches_is_out_of_the_causal_losses():
    student, teacher = pair()
    batch = batch_of(decoders.text(3, [9, 9]))
    rule = fixed_rule(positions_of([3], [], width=9))
    both = make(student, teacher, weights={"causal_ce": 1.0}, positions=rule, pairing=fixed_pairing(1, 0))(batch, step=0)
    rows = {name: value[:1] for name, value in batch.items()}
    rows["source_input_ids"] = batch["input_ids"][1:]
    alone = make(student, teacher, weights={"causal_ce": 1.0}, positions=fixed_rule(positions_of([3], width=9)))(rows, step=0)
    assert both["causal_ce"].item() == pytest.approx(alone["causal_ce"].item(), rel=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama", "olmoe"])  # tied, untied, a mixture
def test_losses_in_parts_are_those_of_the_whole(family, monkeypatch):
    student, teacher = pair(family)
    batch = batch_of(decoders.text(1, [9, 12, 7]))
    answers = []
    for whole, part in ((1 << 26, 1), (1, decoders.WORDS * 5)):
        monkeypatch.setattr(recompute, "WHOLE", whole)
        monkeypatch.setattr(recompute, "PART", part)
        student.zero_grad()
        losses = make(student, teacher)(batch, step=0)
        losses["loss"].backward()
        gradients = {name: each.grad for name, each in student.named_parameters() if each.grad is not None}
        answers.append(({name: value.detach() for name, value in losses.items()}, gradients))
    (losses, gradients), (in_parts, gradients_in_parts) = answers
    assert gradients.keys() == gradients_in_parts.keys()
    for name, value in losses.items():
        torch.testing.assert_close(in_parts[name], value, rtol=1e-6, atol=1e-6)
    for name, value in gradients.items():
        torch.testing.assert_close(gradients_in_parts[name], value, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_batch_is_the_mean_of_those_of_its_parts():
    student, teacher = pair()
    batch = batch_of(decoders.text(1, [9] * 6)) | {"source_input_ids": decoders.text(2, [9] * 6)["input_ids"]}
    rule = fixed_rule(positions_of(*[[3, 4]] * 6, width=9))

    def gradient(rows, chosen):
        student.zero_grad()
        make(student, teacher, positions=fixed_rule(chosen))(rows, step=0)["loss"].backward()
        return {name: each.grad.clone() for name, each in student.named_parameters()}

    positions = rule(None, None, 0.3, None)
    whole = gradient(batch, positions)
    parts = [
        gradient({name: value[start : start + 2] for name, value in batch.items()}, positions[start : start + 2])
        for start in (0, 2, 4)
    ]
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts) / 3, value, rtol=1e-4, atol=1e-6)


def test_no_token_reads_beyond_its_document_where_documents_are_kept_apart():
    model = decoders.build("llama")
    ids = torch.tensor([[7, 8, 9, 1, 5, 6, 7, 8]])
    batch = batch_of({"input_ids": ids}, documents=Framing(after=(1,)))
    apart = get_values(model, {name: batch[name] for name in ("input_ids", "position_ids")}, [2])[2]
    alone = get_values(model, {"input_ids": ids[:, 4:]}, [2])[2]
    torch.testing.assert_close(apart[:, 4:], alone)


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"intervention.positions": "masked"}, "intervention.positions: masked swaps masked tokens, and here none is masked"),
        ({"intervention.positions": "prefix-end"}, "intervention.positions: prefix-end swaps before the first predicted token"),
        ({"masking.rate": "0.2"}, "masking: belongs to another task, and the task is causal-lm"),
        ({"corpus.length": "65"}, "corpus.length: 65 tokens, but the teacher has positions for 64"),
        (
            {"corpus.layout": "lines", "corpus.document_boundaries": "true"},
            "corpus.document_boundaries: lines hold one document",
        ),
        ({"teacher.model": "bert"}, "has no causal-language-model head (it is a BertForMaskedLM)"),
        ({"task": "causal"}, "task: 'causal' is not known; did you mean causal-lm?"),
    ],
)
def test_what_cannot_be_right_is_refused(overrides, sentence, tmp_path):
    if overrides.get("teacher.model") == "bert":
        overrides = {"teacher.model": tiny.teacher()}
    with pytest.raises(ValueError) as error:
        survey(decoders.recipe(tmp_path, overrides, family="gpt2"))
    assert sentence in str(error.value)


def test_documents_are_not_kept_apart_by_another_task(tmp_path):
    with pytest.raises(Refusal, match=r"corpus.document_boundaries: is of causal-lm, and the task is masked-lm"):
        survey(tiny.recipe(tmp_path, {"corpus.document_boundaries": "true"}))


def test_a_model_that_reads_ahead_or_cannot_keep_documents_apart_is_refused(tmp_path):
    from transformers import BertConfig, BertLMHeadModel

    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ahead = BertLMHeadModel(BertConfig(**sizes)).eval()
    with pytest.raises(Refusal, match=r"teacher.model: .* reads tokens behind the one that it predicts from"):
        TASK.check_model(ahead, decoders.recipe(tmp_path))
    apart = decoders.recipe(tmp_path, {"corpus.document_boundaries": "true"})
    TASK.check_model(decoders.build("llama"), apart)
    with pytest.raises(Refusal, match=r"corpus.document_boundaries: a mamba looks back beyond a document"):
        TASK.check_model(decoders.build("mamba"), apart)


def test_masked_words_and_next_words_of_different_vocabularies_do_not_meet():
    other = decoders.build("llama", 4, vocab_size=70)
    with pytest.raises(Refusal, match="vocabulary"):
        make(build_student(decoders.build("llama", 4), 2), other)


def test_a_tokenizer_without_a_padding_token_pads_with_another():
    tokenizer = decoders.tokenizer()
    assert TASK.padding_id(tokenizer) == tokenizer.eos_token_id == 1
    tokenizer.eos_token = None
    assert TASK.padding_id(tokenizer) == tokenizer.bos_token_id == 0
    tokenizer.bos_token = None
    assert TASK.padding_id(tokenizer) is None
    section = CorpusSection(sources=[tiny.corpus()], layout="lines", length=16)
    with pytest.raises(Refusal, match=r"corpus.layout: lines have different lengths and are padded"):
        load_corpus(dataclasses.replace(section, cache=str(tiny.FOLDER / "cache")), tokenizer=tokenizer, seed=0)
