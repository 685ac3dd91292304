"""Data of a known causal structure: its laws, its files, a teacher that learns it, and where that teacher carries a value."""

import functools
import json

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

import diito
from diito import cli
from diito.evaluation.structure.sites import Answering, all_sites, best_site, other_site, worst_layer
from diito.method.positions import apply_rule
from diito.recipe.checks import check
from diito.recipe.file import dump, read
from diito.run.parts import position_rule, survey
from diito.structured import STRUCTURES, make_structure
from diito.structured.folder import SPLITS, Generated
from diito.structured.splits import make_splits
from diito.structured.structure import ANSWER, MASK
from diito.tasks import find_task

ROWS = 40


@functools.cache
def drawn(name):
    """A generator with its splits."""
    structure = make_structure(name, seed=1)
    return structure, make_splits(structure, rows=ROWS)


@functools.cache
def generated():
    """The folder of small tables: 81 rows."""
    folder = tiny.FOLDER / "structured" / "tables"
    arguments = ["generate", "tables", "--size", "3", "--seed", "5", "--rows", "20", "--output", str(folder)]
    assert cli.main(arguments) == 0
    return folder


@functools.cache
def teacher():
    """The folder of a teacher that knows them."""
    folder = tiny.FOLDER / "structured" / "teacher"
    config = "{num_hidden_layers: 3, hidden_size: 32, intermediate_size: 64}"
    arguments = ["pretrain", str(generated()), "--output", str(folder), "--config", config, "--batch", "81"]
    assert cli.main([*arguments, "--steps", "600", "--check_every", "50", "--learning_rate", "5e-3"]) == 0
    return folder


def rows_of(folder, split):
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


# ------------------------------------------------------------------------------------------------ the causal models


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_variable_that_is_set_to_its_own_value_changes_nothing_and_another_value_what_follows(name):
    structure, splits = drawn(name)
    for inputs in splits.test[:20]:
        values = structure.solve(inputs)
        assert set(values) == {*structure.variables, ANSWER}
        for variable in structure.variables:
            assert structure.solve(inputs, {variable: values[variable]}) == values
    for pair in splits.pairs[::10]:
        base, source = structure.solve(pair.base), structure.solve(pair.source)
        values = structure.solve(pair.base, {pair.variable: source[pair.variable]})
        assert base[pair.variable] != source[pair.variable] == values[pair.variable]
        assert (pair.answer, pair.unchanged) == (values[ANSWER], base[ANSWER])
        assert pair.new == (structure.cell(values) in splits.cells)
        before = list(structure.variables)[: list(structure.variables).index(pair.variable)]
        assert all(values[other] == base[other] for other in before)


@pytest.mark.parametrize("name", STRUCTURES)
def test_held_out_combinations_are_in_no_other_split_and_no_row_is_in_two(name):
    structure, splits = drawn(name)
    cells = {split: {structure.cell(structure.solve(row)) for row in getattr(splits, split)} for split in SPLITS}
    assert cells["held"] == set(splits.cells) <= cells["teacher"]
    assert not cells["held"] & (cells["train"] | cells["validation"] | cells["test"])
    apart = [row for split in SPLITS[1:] for row in getattr(splits, split)]
    assert len(apart) == len(set(apart)) and len(splits.train) == ROWS


def test_the_same_seed_gives_the_same_rows_and_another_number_of_rows_the_same_combinations():
    structure, splits = drawn("carry")
    assert splits == make_splits(make_structure("carry", seed=1), rows=ROWS)
    assert splits != make_splits(make_structure("carry", seed=2), rows=ROWS)
    assert splits.cells == make_splits(structure, rows=ROWS + 10).cells


@pytest.mark.parametrize("name", STRUCTURES)
def test_spans_lie_within_a_row_and_all_rows_have_as_many_words(name):
    structure, splits = drawn(name)
    lengths = {len(structure.text(row).split()) for row in splits.teacher[:50]}
    (length,) = lengths
    for span in (span for carriers in structure.variables.values() for span in carriers.values()):
        if isinstance(span[0], str):  # words, of which every row has as many
            assert len({len({*span} & {*structure.words(row)}) for row in splits.teacher[:50]}) == 1
        else:
            assert all(0 <= position < length for position in span)
    assert structure.text(structure.inputs(0)).endswith(f" {MASK}")
    assert len({structure.inputs(number) for number in range(100)}) == 100


def test_values_worked_by_hand():
    carry = make_structure("carry", seed=1)  # base 7
    assert carry.solve((2, 5, 3, 4)) == {"carry": 1, "upper": 5, ANSWER: 6}
    assert carry.solve((2, 5, 3, 4), {"carry": 0})[ANSWER] == 5
    chain = make_structure("chain", seed=1)
    place = chain.pointers[4][2]
    assert chain.solve((2, 4, 1, 0), {"after 2": 5}) == {
        "after 1": place,
        "after 2": 5,
        "pointer 3": 0,
        ANSWER: chain.pointers[0][5],
    }
    circuit = make_structure("circuit", seed=1, size=2)
    circuit.gates = {(1, 0): 0b1000, (1, 1): 0b1110, (2, 0): 0b0110}  # (a and b) xor (c or d)
    assert circuit.solve((1, 1, 0, 0)) == {"gate 1.0": 1, "gate 1.1": 0, ANSWER: 1}
    assert circuit.solve((1, 1, 0, 0), {"gate 1.1": 1})[ANSWER] == 0
    first, second = make_structure("scrambled", seed=1), make_structure("tables", seed=1)
    row = first.inputs(first.rows - 1)
    assert first.solve(row).keys() == second.solve(row[:4]).keys() and first.words(row)[0] == "d6"


def test_a_circuit_can_be_of_depth_two_to_four():
    for depth in (2, 3, 4):
        circuit = make_structure("circuit", seed=1, size=depth)
        assert (
            len(circuit.variables) == 2**depth - 2 and len(circuit.text(circuit.inputs(1)).split()) == 3 * 2 ** (depth - 1) + 1
        )


# ---------------------------------------------------------------------------------------------------- the commands


def test_the_files_say_what_the_causal_model_says_and_the_task_reads_them():
    folder = generated()
    structure = make_structure("tables", seed=5, size=3)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    for split in SPLITS:
        for row in rows_of(folder, split):
            inputs = [int(word[1:]) for word in row["prompt"].split() if word != "="]
            assert row["answer"] == structure.answer_word(structure.solve(inputs)[ANSWER])
            assert row["text"] == f"{row['prompt']} {MASK}"
    ids = tokenizer(rows_of(folder, "train")[0]["text"])["input_ids"]
    assert len(ids) == 7 and ids[-1] == tokenizer.mask_token_id and tokenizer.unk_token_id not in ids
    assert set(Generated.read(folder, field="data").variables) == {"I1", "I2"}
    assert find_task("cloze").framing(tokenizer).before == ()


@pytest.mark.soak
def test_the_teacher_knows_all_rows_and_the_site_of_a_value_is_found():
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(teacher()), AutoTokenizer.from_pretrained(teacher())
    sites = all_sites(model, tokenizer, Generated.read(generated(), field="data"), batch=100)
    by_place = {(site.variable, site.carrier, site.layer): site for site in sites}
    assert len(by_place) == 2 * 3 * 3  # variables, spans, layers
    for site in sites:
        if site.layer == 2:  # only the head is above it, and it reads the mask
            assert site.effective_iia == site.efficacy == 0
    best = best_site(sites, depth=3)
    assert best.layer < 2 and best.effective_iia > max(site.effective_iia for site in sites) - 0.01
    assert worst_layer(sites, best).effective_iia == 0
    assert best.effective_iia == by_hand(model, tokenizer, best)
    other = other_site(sites, best)
    assert other is not None and other.variable != best.variable and not set(other.positions) & set(best.positions)


def by_hand(model, tokenizer, site):
    """The effective accuracy at a site, with the public operator and the words."""
    asked = Generated.read(generated(), field="data").questions(site.variable)
    asked = [each for each in asked if each.answer != each.unchanged]
    base, source = (tokenizer([getattr(each, side) for each in asked], return_tensors="pt") for side in ("base", "source"))
    positions = torch.zeros_like(base["input_ids"], dtype=torch.bool)
    positions[:, site.positions] = True
    ids = [{"input_ids": each["input_ids"]} for each in (base, source)]
    words = diito.interchange(model.eval(), *ids, layers=[site.layer], positions=positions)[:, -1].argmax(-1)
    right = [word == each.answer for word, each in zip(tokenizer.convert_ids_to_tokens(words), asked, strict=True)]
    return pytest.approx(sum(right) / len(right))


def test_a_structure_is_measured_and_the_site_written_for_a_grid(tmp_path, capsys):
    results, site = tmp_path / "results.json", tmp_path / "site.json"
    arguments = ["evaluate", "structure", str(teacher()), "--data", str(generated()), "--output", str(results)]
    assert cli.main([*arguments, "--teacher", str(teacher()), "--write_site", str(site), "--splits", "[teacher, held]"]) == 0
    assert "told of: " in capsys.readouterr().out
    numbers, _ = json.loads(results.read_text())["measurements"][0]["result"]["models"].values()
    assert numbers["accuracy"] == numbers["agreement"] == {"teacher": 1.0, "held": 1.0}
    found = json.loads(site.read_text())
    assert found["wrong_layer"] != found["layer"] and found["positions"] != found["other_positions"]
    other = {"variable": "I2", "positions": [5]}
    site.write_text(json.dumps(other))
    assert cli.main([*arguments, "--site", str(site)]) == 0
    measured = json.loads(results.read_text())["measurements"][1]["result"]["models"][str(teacher())]
    assert {name: measured["site"][name] for name in other} == other


def test_interchange_is_measured_at_named_positions_of_cloze_rows(tmp_path, capsys):
    source = json.dumps([{"path": str(generated() / "teacher.jsonl"), "label": "answer"}])
    arguments = ["evaluate", "interchange", str(teacher()), "--teacher", str(teacher()), "--task", "cloze", "--sources", source]
    arguments += ["--length", "30"]
    output = tmp_path / "results.json"
    assert cli.main([*arguments, "--output", str(output), "--positions", "{at: [0, 1, 2]}"]) == 0
    (measured,) = json.loads(output.read_text())["measurements"]
    assert measured["identity"]["positions"]["at"] == [0, 1, 2]
    numbers = measured["result"]["models"]["student"]
    assert numbers["unswapped"]["iia"] == 1 and numbers["swapped"]["tokens"] == 0  # the mask is never among them
    assert refused(capsys, *arguments, "--positions", "{tokens: [w99]}").startswith("--positions.tokens: 'w99' is no token")


@pytest.mark.parametrize("task", ["sequence-classification", "causal-lm"])
def test_classifiers_and_decoders_are_measured_the_same_way(task, tmp_path):
    folder = tmp_path / "model"
    config = "{num_hidden_layers: 2, hidden_size: 32, intermediate_size: 64}"
    arguments = ["pretrain", str(generated()), "--output", str(folder), "--config", config, "--batch", "81", "--steps", "2"]
    asked = ["--accuracy", "0", "--cross_entropy", "9", "--task", task]
    assert cli.main([*arguments, *asked]) == 0
    output = tmp_path / "results.json"
    assert cli.main(["evaluate", "structure", str(folder), "--data", str(generated()), "--output", str(output)]) == 0
    (numbers,) = json.loads(output.read_text())["measurements"][0]["result"]["models"].values()
    assert 0 <= numbers["accuracy"]["test"] < 1 and len(numbers["sites"]) == 2 * 3 * 2


@pytest.mark.soak
def test_a_decoder_answers_with_the_next_token_and_carries_nothing_to_the_left(tmp_path):
    folder, data = tmp_path / "decoder", generated()
    config = "{num_hidden_layers: 3, hidden_size: 32, intermediate_size: 64}"
    arguments = ["pretrain", str(data), "--output", str(folder), "--config", config, "--batch", "81", "--task", "causal-lm"]
    assert cli.main([*arguments, "--steps", "600", "--check_every", "50", "--learning_rate", "5e-3"]) == 0
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = rows_of(data, "teacher")
    logits = model(**tokenizer([row["prompt"] for row in rows], return_tensors="pt")).logits[:, -1]
    assert tokenizer.convert_ids_to_tokens(logits.argmax(-1)) == [row["answer"] for row in rows]
    joined = tokenizer(rows[0]["prompt"] + rows[0]["answer"])["input_ids"]
    assert joined == tokenizer(f"{rows[0]['prompt']} {rows[0]['answer']}")["input_ids"], "as a recipe joins the two"
    sites = all_sites(model, tokenizer, Generated.read(data, field="data"))
    for site in sites:
        if site.layer == 2 and 5 not in site.positions:  # nothing is above it, and the last word is not swapped
            assert site.effective_iia == site.efficacy == 0
    recipe = tmp_path / "recipe.yaml"
    source = {"path": str(data / "train.jsonl"), "prompt": "prompt", "column": "answer"}
    recipe.write_text(
        json.dumps({"task": "causal-lm", "corpus": {"sources": [source], "layout": "lines", "minimum_tokens": 1}})
    )
    given = ["--teacher.model", str(folder), "--student.layers", "[0, 2]", "--intervention.positions", "{at: [3, 4, 5]}"]
    given += ["--training.steps", "2", "--training.batch", "4", "--evaluation.sources", "[]", "--output", str(tmp_path)]
    assert cli.main(["distill", str(recipe), "--name", "run", *given]) == 0
    assert tiny.metrics(tmp_path / "run")[-1]["causal_ce"] > 0


def test_a_value_is_found_at_words_wherever_they_stand(tmp_path):
    data, folder = tmp_path / "data", tmp_path / "model"
    assert cli.main(["generate", "scrambled", "--size", "2", "--rows", "40", "--output", str(data)]) == 0
    config = "{num_hidden_layers: 2, hidden_size: 32, intermediate_size: 64}"
    arguments = ["pretrain", str(data), "--output", str(folder), "--config", config, "--batch", "8", "--steps", "2"]
    assert cli.main([*arguments, "--accuracy", "0", "--cross_entropy", "9"]) == 0
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    read = Generated.read(data, field="data")
    site = next(each for each in all_sites(model, tokenizer, read) if (each.variable, each.carrier) == ("I2", "words"))
    assert site.positions == ["c0", "c1", "d0", "d1"]
    answering, row = Answering(model, tokenizer), rows_of(data, "test")[0]
    (there,) = answering.places(site.positions, answering.ids([row["text"]]))
    assert [word[0] in "cd" for word in row["prompt"].split()] == there[:6].tolist() and not there[6]
    asked = [each for each in read.questions("I2") if each.answer != each.unchanged]
    ids = [answering.ids([getattr(each, side) for each in asked]) for side in ("base", "source")]
    base, source = (answering.places(site.positions, each) for each in ids)
    inputs = [{"input_ids": each} for each in ids]
    words = diito.interchange(model.eval(), *inputs, layers=[0], positions=base, source_positions=source)[:, -1].argmax(-1)
    right = words == answering.answers([each.answer for each in asked])
    assert site.layer == 0 and site.effective_iia == pytest.approx(float(right.float().mean()))


def refused(capsys, *arguments):
    assert cli.main([str(each) for each in arguments]) == 2
    error = capsys.readouterr().err.splitlines()
    return next(line for line in error if line.startswith("diito: ")).removeprefix("diito: ")


def test_refusals(tmp_path, capsys):
    output = ["--output", tmp_path / "x"]
    assert refused(capsys, "generate", "table", *output).startswith("STRUCTURE: there is no generator of the name 'table'; did")
    assert refused(capsys, "generate", "circuit", "--size", "5", *output) == (
        "--size: 5 is not possible for circuit; give 2 to 4"
    )
    assert "--rows: 5000 of 2,107 rows leave too few" in refused(capsys, "generate", "tables", "--rows", "5000", *output)
    assert refused(capsys, "pretrain", tmp_path).startswith(f"DATA: {tmp_path} is no generated folder")
    assert refused(capsys, "pretrain", generated(), "--config", "{hidden_sise: 3, num_attention_heads: 5}", *output)
    few = refused(capsys, "pretrain", generated(), "--steps", "2", *output)
    assert few.startswith("--steps: after 2 steps it answers 0.") and not (tmp_path / "x").exists()
    for command in (["generate", "tables", "--rows", "0"], ["pretrain", generated(), "--steps", "0"]):
        assert refused(capsys, *command, *output).startswith(f"{command[-2]}: 0 must be at least 1")
    sentence = f"--output: {tmp_path} exists and holds no model; give another folder"
    assert refused(capsys, "pretrain", generated(), "--output", tmp_path) == sentence
    measure = ["evaluate", "structure", teacher(), "--output", tmp_path / "r.json"]
    assert refused(capsys, *measure).startswith("--data: name the folder")
    measure += ["--data", generated()]
    assert refused(capsys, *measure, "--splits", "[tests]").startswith("--splits: 'tests' is not one of teacher, train")
    for text in ('{"variable": "I3", "positions": [0]}', "[1]", "{", '{"variable": ["I1"], "positions": 0}', "{}"):
        (tmp_path / "site.json").write_text(text)
        assert "is not a site of this data" in refused(capsys, *measure, "--site", tmp_path / "site.json")


def test_a_folder_is_found_in_the_home_folder_and_a_damaged_one_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["generate", "tables", "--size", "4", "--rows", "50", "--output", "~/data"]) == 0
    assert not (tmp_path / "~").exists() and Generated.read("~/data", field="data").path == tmp_path / "data"
    capsys.readouterr()
    for text in ("{", "[]", "{}"):
        (tmp_path / "data" / "causal-model.json").write_text(text)
        assert "causal-model.json is damaged; make it again" in refused(capsys, "pretrain", "~/data")


# --------------------------------------------------------------------------------------- positions that a recipe names


@pytest.mark.parametrize(
    ("positions", "sentence"),
    [
        ("{at: [0, 1]}", r"intervention\.positions\.at: 0 is a special token, .*; count from 1"),
        ("{segments: [[1, 2], [0]]}", r"intervention\.positions\.segments: 0 is a special token"),
        ("{tokens: [w1, w99]}", r"intervention\.positions\.tokens: 'w99' is no token of the tokenizer"),
        ('{tokens: ["[SEP]"]}', r"intervention\.positions\.tokens: '\[SEP\]' is a special token"),
        (
            "{at: [1], tokens: [w1]}",
            r"give exactly one of at, segments, tokens, and not at and tokens",
        ),
        ("{}", r"intervention\.positions: give exactly one of .*, and not none"),
        ("{at: [2, 1]}", r"intervention\.positions\.at: \[2, 1\] must be a list of positions that increase"),
    ],
)
def test_positions_that_would_never_be_swapped_are_refused(positions, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        recipe = tiny.recipe(tmp_path, {"intervention.positions": positions})
        check(recipe)
        survey(recipe)


@pytest.mark.parametrize("positions", ["{at: [1, 2]}", "{segments: [[1, 2], [3]]}", "{tokens: [w1, w2]}", "{at: [0]}"])
def test_positions_of_a_recipe_become_a_rule_and_are_written_back(positions, tmp_path):
    recipe = tiny.recipe(tmp_path, {"intervention.positions": positions, "intervention.specials": str("[0]" in positions)})
    surveyed = survey(recipe)
    rule = position_rule(recipe, surveyed.task, surveyed.tokenizer)
    ids = torch.tensor([[2, *surveyed.tokenizer.convert_tokens_to_ids(["w1", "w5", "w2"]), 3]])
    eligible = torch.ones_like(ids, dtype=torch.bool)
    chosen = apply_rule(rule, eligible, eligible, 0.1, torch.Generator(), input_ids=ids).nonzero()[:, 1].tolist()
    wanted = {"{at: [1, 2]}": [[1, 2]], "{tokens: [w1, w2]}": [[1, 3]], "{at: [0]}": [[0]]}
    assert chosen in wanted.get(positions, [[1, 2], [3]])
    path = tmp_path / "again.yaml"
    path.write_text(dump(recipe), encoding="utf-8")
    assert read(path) == recipe


# -------------------------------------------------------------------------------------------------------- the task


def cloze_rows(tmp_path, *lines):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


def test_a_cloze_question_is_asked_as_it_stands(tmp_path):
    from diito.recipe import CorpusSection, SourceSection

    task, tokenizer = find_task("cloze"), tiny.tokenizer()
    lines = [{"text": "w1 [MASK] w2", "word": "w3"}, {"text": "w1 w2 w4 [MASK]", "word": None}]
    source = SourceSection(path=str(cloze_rows(tmp_path, *lines)), label="word")
    rows = task.load_rows(CorpusSection(sources=[source]), tokenizer=tokenizer, seed=0)
    batching = task.held_out_batching(tokenizer=tokenizer, vocab_size=64)
    from diito.corpus import collate

    batch = batching.batch(collate(rows.__getitems__([0, 1]), pad_token_id=0), generator=torch.Generator())
    assert batch["slots"].tolist() == [[2], [4]]  # behind [CLS]
    assert batch["labels"].tolist() == [[tokenizer.convert_tokens_to_ids("w3")], [-100]]
    assert (batch["input_ids"] == tokenizer.mask_token_id).sum(1).tolist() == [1, 1]
    assert "1 w3, 1 without one" in str(rows.statistics)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ({"text": "w1 w2", "word": "w3"}, r"needs \[MASK\] once"),
        ({"text": "[MASK] [MASK]", "word": "w3"}, r"needs \[MASK\] once"),
        ({"text": "w1 [MASK]", "word": "w3 w4"}, "the answer 'w3 w4' is not one token"),
        ({"text": "w1 [MASK]", "word": 3}, "the answer 3 is no word"),
        ({"text": "w1 " * 20 + "[MASK]", "word": "w3"}, "corpus.length: .*line 1 has 23 tokens"),
    ],
)
def test_what_is_no_cloze_question_is_refused(line, sentence, tmp_path):
    from diito.recipe import CorpusSection, SourceSection

    source = SourceSection(path=str(cloze_rows(tmp_path, line)), label="word")
    with pytest.raises(ValueError, match=sentence):
        section = CorpusSection(sources=[source], length=16)
        find_task("cloze").load_rows(section, tokenizer=tiny.tokenizer(), seed=0)
