"""Token ids: a tokenizer without loss, labels where the assistant speaks, rows laid side by side
without waste."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from uvlm_core.data.conversations import IMAGE, TASKS, Conversation, Turn, make_conversations
from uvlm_core.data.smart_watch import sample_watches
from uvlm_core.data.tokens import (
    ASSISTANT,
    IGNORED,
    SPECIAL_TOKENS,
    USER,
    Processor,
    bucket_of,
    collate,
    padding_share,
    train_tokenizer,
)

repeatably = settings(max_examples=80, deadline=None, derandomize=True)
TALK = Conversation(
    "vqa",
    7,
    (
        Turn(f"{IMAGE}\nwhat time is it?", "10:09:36", ("time",)),
        Turn("how full is the battery?", "57%", ("battery",)),
    ),
)
REQUEST = Conversation(
    "generation", 4, (Turn("draw a watch where it is sunny outside.", IMAGE, ("weather",)),)
)
SHIPPED = "pretrained/tokenizer"


@pytest.fixture(scope="module")
def rows(processor, watches):
    """Rows of all three tasks."""
    return [
        processor.row(talk)
        for task in TASKS
        for talk in make_conversations(watches[:12], task, 0, turns=(1, 5))
    ]


@pytest.fixture(scope="module")
def processors(processor):
    """The tests' processor and the shipped one."""
    return processor, Processor.load(SHIPPED, 4, 4)


# any string, and strings that spell control tokens, whole or in parts
TEXTS = st.lists(
    st.text(max_size=12) | st.sampled_from([*SPECIAL_TOKENS, "<", "s>", " ", "<image", "\n"]),
    max_size=8,
).map("".join)


@given(TEXTS)
@repeatably
def test_any_text_comes_back_from_its_tokens_and_is_no_control_token(processors, text):
    for some in processors:
        *ids, end = some.answer_ids(text)
        assert some.text([*ids, end]) == text and end == some.eos
        assert not some.control.intersection(ids)


@given(TEXTS.filter(str.strip).filter(lambda text: IMAGE not in text))
@repeatably
def test_what_a_user_writes_makes_no_slot_and_no_end(processors, text):
    for some in processors:
        row = some.row(Conversation("vqa", 0, (Turn(f"{IMAGE}\n{text}", text), Turn(text, "yes"))))
        assert (row.ids == some.image_in).sum() == some.tokens_in
        assert (row.labels == some.eos).sum() == (row.ids == some.eos).sum() == 2
        request = some.row(Conversation("generation", 0, (Turn(text, IMAGE),)))
        assert (request.ids == some.image_out).sum() == some.tokens_out
        assert (request.ids == some.generate).sum() == (request.ids == some.bos).sum() == 1
        assert not {some.pad, some.image_in}.intersection(request.ids.tolist())


def test_a_tokenizer_whose_control_tokens_text_can_spell_is_refused():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3}, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    some = Processor(
        PreTrainedTokenizerFast(
            tokenizer_object=bare, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        ),
        4,
        4,
    )
    assert some.ids_of("a b") == [3, 0]
    with pytest.raises(ValueError, match="makes a control token of the text 'a </s>'"):
        some.ids_of("a </s>")


def test_a_row_that_the_language_model_cannot_read_is_refused_by_file_and_row(processor):
    some = Processor(processor.tokenizer, processor.tokens_in, processor.tokens_out)
    talk = Conversation(
        "caption", 0, (Turn(f"{IMAGE}\nwhat is it?", "a long story " * 20),), source="c.json, row 7"
    )
    length = len(some.row(talk).ids)
    some.context = length
    assert len(some.row(talk).ids) == length
    some.context = length - 1
    with pytest.raises(
        ValueError,
        match=rf"c\.json, row 7: the row has {length} tokens \('a long "
        f"story .*\), and the language model reads at most "
        f"{length - 1}; shorten it or leave it out",
    ):
        some.check([talk])
    with pytest.raises(ValueError, match="A row of the task 'generation': the row has"):
        some.row(Conversation("generation", 0, (Turn("draw it " * 200, IMAGE),)))


def test_every_digit_is_a_token_of_its_own(processor):
    for some in (processor, Processor.load(SHIPPED, 1, 1)):
        for text in ("10:09:36", "100%", "the 1234567890"):
            tokens = [some.tokenizer.decode([i]) for i in some.ids_of(text)]
            assert [token for token in tokens if any(c.isdigit() for c in token)] == [
                c for c in text if c.isdigit()
            ]


def test_each_special_token_is_one_token_that_no_answer_shows(processor):
    for token in SPECIAL_TOKENS:
        assert len(processor.tokenizer(token, add_special_tokens=False)["input_ids"]) == 1
    assert (
        processor.text(
            [
                processor.bos,
                *processor.ids_of(" sunny"),
                processor.generate,
                processor.image_out,
                processor.eos,
                processor.pad,
            ]
        )
        == "sunny"
    )


def test_a_tokenizer_that_knows_nothing_of_images_gets_its_tokens_at_the_end(networks):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {
        word: number
        for number, word in enumerate(["<unk>", "<s>", "</s>", "a", "USER", ":", "ASSISTANT"])
    }
    bare = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    processor = Processor(
        PreTrainedTokenizerFast(
            tokenizer_object=bare, bos_token="<s>", eos_token="</s>", pad_token="</s>"
        ),
        4,
        4,
    )
    assert (processor.bos, processor.eos) == (1, 2) and processor.pad != processor.eos
    assert sorted([processor.pad, processor.image_in, processor.generate, processor.image_out]) == [
        7,
        8,
        9,
        10,
    ]
    row = processor.row(Conversation("generation", 0, (Turn("a", IMAGE),)))
    assert row.ids.tolist() == [1, 4, 5, 3, 6, 5, processor.generate, *[processor.image_out] * 4, 2]
    shipped = Processor.load(str(networks / "tokenizer"), 4, 4)
    # it lacks none
    assert len(shipped.tokenizer) == len(AutoTokenizer.from_pretrained(networks / "tokenizer"))
    assert [
        shipped.pad,
        shipped.bos,
        shipped.eos,
        shipped.image_in,
        shipped.generate,
        shipped.image_out,
    ] == [*range(6)]
    with pytest.raises(
        ValueError, match="has the tokens None and None for the begin and the end of a text"
    ):
        Processor(PreTrainedTokenizerFast(tokenizer_object=bare), 4, 4)


def test_a_trained_tokenizer_reads_back_from_its_folder_as_it_was(tmp_path):
    trained = train_tokenizer(
        ["what time is it? 10:09:36", "sunny and top left"] * 5, tmp_path / "new", size=300
    )
    loaded = AutoTokenizer.from_pretrained(tmp_path / "new")
    assert loaded.get_vocab() == trained.get_vocab()
    assert loaded("sunny 57%")["input_ids"] == trained("sunny 57%")["input_ids"]


def test_an_understanding_row_is_the_template_with_one_slot_per_image_token(processor):
    row = processor.row(TALK)
    p = processor
    expected = (
        [p.bos]
        + p.ids_of(USER)
        + [p.image_in] * 16
        + p.ids_of("what time is it?" + ASSISTANT)
        + p.ids_of(" 10:09:36")
        + [p.eos]
        + p.ids_of(USER + "how full is the battery?" + ASSISTANT)
        + p.ids_of(" 57%")
        + [p.eos]
    )
    assert row.ids.tolist() == expected
    assert (row.image_in, row.image_out) == (7, -1)


def test_a_generation_row_ends_with_the_trigger_the_slots_and_the_end(processor):
    row = processor.row(REQUEST)
    assert row.ids[-18:].tolist() == [processor.generate] + [processor.image_out] * 16 + [
        processor.eos
    ]
    assert processor.image_in not in row.ids
    assert (row.image_in, row.image_out) == (-1, 4)


def test_the_given_image_overrides_the_conversations_own(processor):
    assert processor.row(TALK, image=0).image_in == 0
    assert processor.row(REQUEST, image=0).image_out == 0


def test_labels_are_what_the_assistant_says_and_nothing_else(processor):
    row = processor.row(TALK)
    said = row.labels[row.labels != IGNORED].tolist()
    assert said == processor.ids_of(" 10:09:36") + [processor.eos] + processor.ids_of(" 57%") + [
        processor.eos
    ]
    request = processor.row(REQUEST)
    assert request.labels[request.labels != IGNORED].tolist() == [processor.generate, processor.eos]


def test_labels_stand_where_their_tokens_stand_and_never_on_image_slots(processor, rows):
    for row in rows:
        labelled = row.labels != IGNORED
        assert (row.labels[labelled] == row.ids[labelled]).all()
        assert not labelled[np.isin(row.ids, (processor.image_in, processor.image_out))].any()
        assert labelled.sum() > 0


def test_slots_are_as_many_as_the_image_has_tokens(networks):
    processor = Processor.load(str(networks / "tokenizer"), 9, 5)
    for task, slot, count in (
        ("vqa", processor.image_in, 9),
        ("caption", processor.image_in, 9),
        ("generation", processor.image_out, 5),
    ):
        talk = make_conversations(sample_watches(0, 1), task, 0)[0]
        row = processor.row(talk)
        assert (row.ids == slot).sum() == count
        assert np.isin(row.ids, (processor.image_in, processor.image_out)).sum() == count


def test_human_ids_put_the_slots_where_the_image_tag_stands(processor):
    p = processor
    assert p.human_ids(f"{IMAGE}\nhow late is it?") == (
        p.ids_of(USER) + [p.image_in] * 16 + p.ids_of("how late is it?" + ASSISTANT)
    )
    assert p.human_ids("how late is it?") == p.ids_of(USER + "how late is it?" + ASSISTANT)


def unpadded(bucket: dict, pad: int) -> list[tuple]:
    """The rows of a bucket as (ids, labels) without padding, which must be at the right only."""
    found = []
    for ids, labels in zip(bucket["input_ids"].tolist(), bucket["labels"].tolist(), strict=True):
        length = max(i for i, token in enumerate(ids) if token != pad) + 1
        assert pad not in ids[:length] and set(labels[length:]) <= {IGNORED}
        found.append((tuple(ids[:length]), tuple(labels[:length])))
    return found


def test_collation_keeps_every_row_once_and_pads_at_the_right_only(processor, rows, tables):
    buckets = collate(rows, tables["VQ"], tables["VQ"], processor.pad)
    assert len(buckets) > 1
    found = [row for bucket in buckets for row in unpadded(bucket, processor.pad)]
    assert sorted(found) == sorted(
        (tuple(row.ids.tolist()), tuple(row.labels.tolist())) for row in rows
    )


@pytest.mark.parametrize(("kind_in", "kind_out"), [("VQ", "SigLIP"), ("SigLIP", "VQ")])
def test_images_come_in_the_order_of_their_rows(processor, rows, tables, kind_in, kind_out):
    by_ids = {tuple(row.ids.tolist()): row for row in rows}
    assert len(by_ids) == len(rows)
    for bucket in collate(rows, tables[kind_in], tables[kind_out], processor.pad):
        own = [by_ids[ids] for ids, _ in unpadded(bucket, processor.pad)]
        for name, table, wanted in (
            ("images_in", tables[kind_in], [r.image_in for r in own if r.image_in >= 0]),
            ("images_out", tables[kind_out], [r.image_out for r in own if r.image_out >= 0]),
        ):
            assert (name in bucket) == bool(wanted)
            if wanted:
                np.testing.assert_array_equal(bucket[name].numpy(), table[wanted])


def test_padding_is_below_five_per_cent_in_steps_as_the_laptop_profile_takes_them():
    processor, watches = Processor.load(SHIPPED, 64, 64), sample_watches(3, 200)
    blank = np.zeros((200, 64), np.uint16)
    rows = {
        task: [processor.row(talk) for talk in make_conversations(watches, task, 0)]
        for task in TASKS
    }
    buckets = []
    for step in range(3):  # 54 questions, 10 captions, 64 requests a step
        part = [
            row
            for task, size in (("vqa", 54), ("caption", 10), ("generation", 64))
            for row in rows[task][step * size : (step + 1) * size]
        ]
        buckets += collate(part, blank, blank, processor.pad)
    assert padding_share(buckets, processor.pad) < 0.05


def test_the_share_of_padding_is_counted_over_all_buckets():
    buckets = [
        {"input_ids": torch.tensor([[5, 5, 0], [5, 0, 0]])},
        {"input_ids": torch.tensor([[5, 5, 5, 5]])},
    ]
    assert padding_share(buckets, pad=0) == pytest.approx(3 / 10)


@pytest.mark.parametrize("architecture", ["VQ-VQ", "SigLIP-SigLIP"])
def test_the_loss_does_not_depend_on_how_rows_are_laid_side_by_side(
    processor, rows, tables, new_model, architecture
):
    model = new_model(architecture).eval()
    table = tables[architecture.split("-")[0]]
    several = collate(rows, table, table, processor.pad)
    one = bucket_of(rows, table, table, processor.pad)
    apart = [bucket for row in rows for bucket in collate([row], table, table, processor.pad)]
    assert len(several) > 1 and padding_share([one], processor.pad) > 0.1
    with torch.no_grad():
        losses = [model(buckets=several), model(**one), model(buckets=apart)]
    for output in losses[1:]:
        torch.testing.assert_close(output.loss, losses[0].loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(output.image_loss, losses[0].image_loss, rtol=1e-5, atol=1e-6)
        assert (output.text_positions, output.image_positions) == (
            losses[0].text_positions,
            losses[0].image_positions,
        )
