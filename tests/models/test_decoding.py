"""Decoding: what comes out is what the model says row by row without a cache, however it is
batched.

Where values are compared, models are in float64: random ones are chaotic, and rounding must not
decide.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from uvlm_core.data.conversations import IMAGE, Conversation, Turn, make_conversations
from uvlm_core.data.edits import make_edits
from uvlm_core.data.tokens import Row, bucket_of, collate
from uvlm_core.models.decoding import answer, generate_images, log_likelihoods
from uvlm_core.models.heads import FLOW_STEPS, SilentLinear, sample, unscaled
from uvlm_core.models.unified import UnifiedVLM
from uvlm_core.training.loop import make_optimizer
from uvlm_core.training.networks import tune

WAYS = [dict(cached=cached, batch_size=size) for cached in (True, False) for size in (1, 3, 64)]
LIMIT = 6


@pytest.fixture(scope="module")
def talks(watches):
    """Conversations of one to four turns, in mixed order."""
    return make_conversations(watches[:9], "vqa", 0, turns=(1, 4))


@pytest.fixture(scope="module")
def requests(watches):
    return make_conversations(watches[:7], "generation", 0)


@pytest.fixture(scope="module")
def talker(new_model, processor, tables, talks):
    """A model whose answers end now here, now there: a bias lifts the end to where it wins every
    few tokens."""
    model = new_model("VQ-VQ").eval().double()
    old = model.language_model.lm_head
    head = torch.nn.Linear(old.in_features, old.out_features).double()
    rows = [processor.row(talk) for talk in talks]
    with torch.no_grad():
        head.weight.copy_(old.weight)
        head.bias.zero_()
        bucket = bucket_of(rows, tables["VQ"], None, processor.pad)
        logits = head(model.hidden_states(model.embed(bucket["input_ids"], bucket["images_in"])))
        lead = (logits.amax(-1) - logits[..., processor.eos]).flatten()
        head.bias[processor.eos] = lead.quantile(0.25)
    model.language_model.lm_head = head
    return model


def next_logits(model: UnifiedVLM, ids: list[int], codes) -> torch.Tensor:
    """Logits after a row that nothing stands beside: no cache, no padding, no mask."""
    embeds = model.embed(torch.tensor([ids]), torch.from_numpy(codes[None].astype(np.int64)))
    return model.language_model.lm_head(model.hidden_states(embeds, use_cache=False)[0, -1])


def answers_by_loops(model, processor, talk, codes, limit):
    """Greedy answers, the row built up as a training row is."""
    ids, said = [processor.bos], []
    for turn in talk.turns:
        ids += processor.human_ids(turn.human)
        new = []
        while len(new) < limit:
            token = int(next_logits(model, ids + new, codes).argmax())
            if token == processor.eos:
                break
            new.append(token)
        ids += new + [processor.eos]
        said.append(new)
    return said


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_greedy_answers_are_those_of_each_row_by_itself(way, talker, talks, tables, processor):
    with torch.no_grad():
        expected = [
            answers_by_loops(talker, processor, talk, tables["VQ"][talk.image], LIMIT)
            for talk in talks
        ]
    lengths = {len(said) for row in expected for said in row}
    assert LIMIT in lengths and len(lengths) > 2  # some answers are cut, some end by themselves
    found = answer(talker, processor, talks, tables["VQ"], limit=LIMIT, **way)
    assert found == [[processor.text(said) for said in row] for row in expected]


def test_sampled_answers_do_not_depend_on_batches_or_cache(talker, talks, tables, processor):
    first, *others = [
        answer(talker, processor, talks, tables["VQ"], limit=LIMIT, temperature=1.0, seed=4, **way)
        for way in WAYS
    ]
    assert all(other == first for other in others)
    assert first != answer(
        talker, processor, talks, tables["VQ"], limit=LIMIT, temperature=1.0, seed=5
    )
    assert first != answer(talker, processor, talks, tables["VQ"], limit=LIMIT)


def test_answers_of_a_siglip_model_do_not_depend_on_batches_or_cache(
    new_model, talks, tables, processor
):
    model = new_model("SigLIP-VQ")
    first, *others = [
        answer(model, processor, talks, tables["SigLIP"], limit=LIMIT, **way) for way in WAYS
    ]
    assert all(other == first for other in others)
    assert len({text for row in first for text in row}) > 3


def test_an_answer_depends_on_its_own_image(talker, talks, tables, processor):
    turned = np.roll(tables["VQ"][: len(talks)], 1, 0)
    assert answer(talker, processor, talks, tables["VQ"], limit=LIMIT) != answer(
        talker, processor, talks, turned, limit=LIMIT
    )


def saying(model: UnifiedVLM, token: int) -> UnifiedVLM:
    """The model, made to say one token at every place."""
    head = torch.nn.Linear(
        model.config.text_config.hidden_size, model.config.text_config.vocab_size
    )
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    head.bias.data[token] = 1.0
    model.language_model.lm_head = head
    return model


def test_an_answer_without_an_end_is_cut_at_the_limit(new_model, processor, talks, tables):
    (token,) = processor.ids_of("7")
    for limit in (1, 5):
        found = answer(
            saying(new_model("VQ-VQ"), token), processor, talks, tables["VQ"], limit=limit
        )
        assert found == [["7" * limit] * len(talk.turns) for talk in talks]


def test_an_answer_that_ends_at_once_is_empty(new_model, processor, talks, tables):
    found = answer(saying(new_model("VQ-VQ"), processor.eos), processor, talks, tables["VQ"])
    assert found == [[""] * len(talk.turns) for talk in talks]


@pytest.mark.parametrize("architecture", ["VQ-VQ", "SigLIP-SigLIP"])
def test_images_are_those_of_each_row_by_itself(architecture, new_model, processor, requests):
    """The reference embeds the row with the tokens so far as training does, and looks at its last
    place."""
    model, codes = new_model(architecture).eval().double(), architecture == "VQ-VQ"
    expected = []
    with torch.no_grad():
        for request in requests:
            ids = (
                [processor.bos] + processor.human_ids(request.turns[0].human) + [processor.generate]
            )
            tokens = []
            for _ in range(16):
                so_far = torch.stack(tokens)[None] if tokens else None
                embeds = model.embed(torch.tensor([ids]), images_out=so_far)
                predicted = model.generation_head(
                    model.hidden_states(embeds, use_cache=False)[0, -1]
                )
                tokens.append(predicted.argmax() if codes else predicted)
                ids.append(processor.image_out)
            expected.append(torch.stack(tokens).numpy())
    expected = np.stack(expected)
    assert len(np.unique(expected.round(3), axis=0)) > len(requests) // 2  # requests matter
    for way in WAYS:
        found = generate_images(model, processor, requests, **way).tokens
        if codes:
            np.testing.assert_array_equal(found, expected)
        else:
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("loss", ["flow", "image_flow"])
def test_sampled_features_are_those_of_each_row_by_itself_and_of_its_noise(
    loss, new_model, processor, requests, images
):
    model = new_model("VQ-SigLIP", feature_loss=loss, images=images).eval()
    torch.manual_seed(0)
    for part in model.generation_head.modules():
        if isinstance(part, SilentLinear):  # else the state does not matter yet
            torch.nn.init.normal_(part.weight, std=0.3)
    model = model.double()
    first, *others = (generate_images(model, processor, requests, **way).tokens for way in WAYS)
    for found in others:
        np.testing.assert_allclose(found, first, rtol=1e-5, atol=1e-6)
    changed = generate_images(model, processor, requests[::-1]).tokens  # same noise, other requests
    assert np.abs(changed - first).max() > 1e-3
    again = generate_images(model, processor, requests, seed=1).tokens
    assert np.abs(again - first).max() > 0.1


def test_an_image_at_once_gives_either_of_two_values(
    new_model, processor, requests, images, monkeypatch
):
    model = new_model("VQ-SigLIP", feature_loss="image_flow", images=images).eval()
    read = {}

    def embed_points(points, times, embed=model.embed_points):
        read.update(points=points, times=times)
        return embed(points, times)

    def exact(hidden):  # velocity if all features are -1 or 1, in their scale, equally likely
        points, left = read["points"], 1 - read["times"]
        expected = torch.tanh(read["times"] * points / left**2)
        return ((expected - points) / left).flatten(0, 1)

    monkeypatch.setattr(model, "embed_points", embed_points)
    monkeypatch.setattr(model, "velocity", exact)
    head = model.generation_head
    found = generate_images(model, processor, requests).tokens
    found = (torch.from_numpy(found) - head.mean) / head.scale
    assert ((found.abs() - 1).abs() < 0.1).float().mean() > 0.95
    assert 0.4 < (found > 0).float().mean() < 0.6


@torch.no_grad()
def test_an_image_at_once_is_drawn_as_whole_rows_would_be(new_model, processor, requests, images):
    model = new_model("VQ-SigLIP", feature_loss="image_flow", images=images).eval()
    torch.manual_seed(0)
    for part in model.generation_head.modules():
        if isinstance(part, SilentLinear):  # else the state does not matter yet
            torch.nn.init.normal_(part.weight, std=0.3)
    model, head = model.double(), model.generation_head
    space = model.config.generation_space
    noise = model.head.draws((1, space["tokens"]), space, torch.Generator().manual_seed(0)).double()
    for request in requests[:3]:
        asked = [processor.bos, *processor.human_ids(request.turns[0].human), processor.generate]
        ids = torch.tensor([asked + space["tokens"] * [processor.image_out]])
        slots, points = ids == processor.image_out, noise
        for step in range(FLOW_STEPS):
            times = torch.full((1, 1, 1), step / FLOW_STEPS, dtype=torch.double)
            embeds = model.embed(ids)
            embeds[slots] = model.embed_points(points, times)[0]
            hidden = model.hidden_states(embeds, attention_mask=model.attention_mask(ids))
            points = points + head(model.drawing_states(hidden, ids))[None] / FLOW_STEPS
        found = generate_images(model, processor, [request]).tokens
        np.testing.assert_allclose(found, unscaled(head, points), rtol=1e-6, atol=1e-8)


def test_an_image_at_once_needs_no_trigger_of_its_own_and_says_whether_there_was_one(
    new_model, processor, requests, images
):
    model = new_model("VQ-SigLIP", feature_loss="image_flow", images=images).eval()
    prompts = [[processor.bos] + processor.human_ids(row.turns[0].human) for row in requests]
    wanted = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        hidden = model.hidden_states(model.embed(ids), use_cache=False)[0, -1]
        wanted.append(model.language_model.lm_head(hidden).argmax().item())
    processor = copy.copy(processor)
    processor.generate = max(set(wanted), key=wanted.count)
    found = generate_images(model, processor, requests)
    assert found.triggered.tolist() == [token == processor.generate for token in wanted]
    assert found.triggered.any()


@pytest.mark.parametrize("architecture", ["VQ-VQ", "VQ-SigLIP"])
def test_an_edit_reads_its_own_watch_in_any_batch(
    architecture, new_model, processor, watches, tables
):
    model, table = new_model(architecture).double(), tables["VQ"]
    edits = make_edits(watches[:7], range(7), 0)
    first, *others = [generate_images(model, processor, edits, table, **way).tokens for way in WAYS]
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-6, atol=1e-8)
    turned = np.roll(table[:7], 1, 0)
    assert (generate_images(model, processor, edits, turned).tokens != first).any()
    asked = [replace(edit, image=(edit.image + 1) % 7) for edit in edits]
    np.testing.assert_allclose(
        generate_images(model, processor, asked, turned).tokens, first, rtol=1e-6, atol=1e-8
    )


def test_sampled_codes_do_not_depend_on_batches_or_cache(new_model, processor, requests):
    model = new_model("SigLIP-VQ").double()
    first, *others = [
        generate_images(model, processor, requests, temperature=1.0, seed=2, **way).tokens
        for way in WAYS
    ]
    for other in others:
        np.testing.assert_array_equal(other, first)
    assert (
        first != generate_images(model, processor, requests, temperature=1.0, seed=3).tokens
    ).any()
    assert (first != generate_images(model, processor, requests).tokens).any()


@pytest.mark.parametrize(
    ("architecture", "shared"),
    [("VQ-VQ", False), ("VQ-VQ", True), ("VQ-SigLIP", False), ("SigLIP-SigLIP", True)],
)
def test_a_training_step_on_its_own_images_predicts_the_same_images(
    architecture, shared, new_model, processor, requests
):
    """One code path for training and decoding (pitfall 5): teacher-forced on what it decoded, the
    head repeats it."""
    model = new_model(architecture, shared).eval()
    if architecture == "VQ-VQ":
        model = model.double()
    generated = generate_images(model, processor, requests).tokens
    rows = [processor.row(request) for request in requests]
    hidden = []
    model.generation_head.register_forward_pre_hook(lambda module, inputs: hidden.append(inputs[0]))
    with torch.no_grad():
        for row in rows:  # one by one, so that the order of the slots is that of the table
            model(buckets=collate([row], None, generated, processor.pad))
        again = torch.stack([model.generation_head(h) for h in hidden[: len(rows)]])
    if model.config.generation_space["codes"]:
        np.testing.assert_array_equal(again.argmax(-1).numpy(), generated)
    else:
        np.testing.assert_allclose(again.numpy(), generated, rtol=1e-3, atol=1e-4)
    # the check can fail: another image in the slots gives another prediction
    others = np.roll(generated, 1, 0)
    with torch.no_grad():
        model(buckets=collate(rows[:1], None, others, processor.pad))
    assert not np.allclose(hidden[-1].numpy(), hidden[0].numpy(), atol=1e-4)


def test_a_model_that_says_the_trigger_is_triggered_and_another_is_not(
    new_model, processor, requests
):
    for token, triggered in ((processor.generate, True), (processor.eos, False)):
        found = generate_images(saying(new_model("VQ-VQ"), token), processor, requests)
        assert found.triggered.tolist() == [triggered] * len(requests)
        assert found.tokens.shape == (len(requests), 16)


def test_the_trigger_is_looked_for_where_the_request_ends(new_model, processor, requests):
    """Trained on one request alone, the model triggers there; the image and the cache have no say
    in it."""
    from uvlm_core.training.profiles import profile

    model = tune(new_model("VQ-VQ"), profile("laptop").spec)
    optimizer = make_optimizer(
        model, profile("laptop").spec.vary(learning_rate=0.02, adapter_learning_rate=0.02)
    )
    row = processor.row(requests[0])
    only = Row(row.ids, row.labels, -1, 0)
    buckets = collate([only], None, np.zeros((1, 16), np.uint16), processor.pad)
    for _ in range(30):
        model(buckets=buckets).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert generate_images(model, processor, requests[:1]).triggered.all()
    assert generate_images(model, processor, requests[:1], cached=False).triggered.all()
    np.testing.assert_array_equal(
        generate_images(model, processor, requests[:1]).tokens, np.zeros((1, 16))
    )


def test_a_lora_model_decodes_as_its_merged_self(
    new_model, spec, processor, talks, requests, tables
):
    model = tune(new_model("VQ-VQ"), spec.vary(tuning="lora"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    texts = answer(model, processor, talks, tables["VQ"], limit=LIMIT)
    codes = generate_images(model, processor, requests).tokens
    assert texts != answer(new_model("VQ-VQ"), processor, talks, tables["VQ"], limit=LIMIT)
    merged = model.merge_and_unload()
    assert texts == answer(merged, processor, talks, tables["VQ"], limit=LIMIT)
    np.testing.assert_array_equal(codes, generate_images(merged, processor, requests).tokens)


def test_decoding_leaves_torchs_random_state_alone(talker, talks, requests, tables, processor):
    torch.manual_seed(8)
    before = torch.get_rng_state()
    answer(talker, processor, talks[:2], tables["VQ"], limit=2, temperature=1.0)
    generate_images(talker, processor, requests[:2], temperature=1.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_choice_takes_each_option_as_often_as_its_probability():
    logits = torch.tensor([[1.0, 0.0, -2.0, 3.0]])
    draws = (torch.arange(10_000) + 0.5) / 10_000
    for temperature in (0.5, 1.0, 2.0):
        chosen = torch.cat(
            [sample(logits.expand(100, -1), temperature, part) for part in draws.split(100)]
        )
        share = torch.bincount(chosen, minlength=4) / len(draws)
        torch.testing.assert_close(
            share, torch.softmax(logits[0] / temperature, -1), rtol=0, atol=2e-4
        )
    assert sample(logits, 0, None).tolist() == [3]
    assert sample(logits, 1.0, torch.tensor([1 - 2**-24])).tolist() == [3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(temperature=-0.1), "temperature -0.1 is not from 0"),
        (dict(temperature=float("nan")), "temperature nan is"),
        (dict(batch_size=0), "batch_size 0 is below 1"),
    ],
)
def test_impossible_settings_are_refused(
    change, message, talker, talks, requests, tables, processor
):
    with pytest.raises(ValueError, match=message):
        answer(talker, processor, talks, tables["VQ"], **change)
    with pytest.raises(ValueError, match=message):
        generate_images(talker, processor, requests, **change)


def test_other_peoples_questions_of_any_length_are_answered_too(talker, tables, processor):
    long = Conversation(
        "vqa",
        3,
        tuple(
            Turn((f"{IMAGE}\n" if i == 0 else "") + "tell me " * 7 * (i + 1), "no")
            for i in range(3)
        ),
    )
    short = Conversation("vqa", 2, (Turn(f"{IMAGE}\nso?", "yes"),))
    together = answer(talker, processor, [long, short], tables["VQ"], limit=LIMIT)
    assert [len(row) for row in together] == [3, 1]
    assert together == [
        answer(talker, processor, [talk], tables["VQ"], limit=LIMIT)[0] for talk in (long, short)
    ]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_an_answer_that_must_be_one_of_some_texts_is_one_of_them(
    way, talker, talks, tables, processor
):
    only = ("sunny", "sunny sky", "57%", "5%", "top left")
    found = answer(talker, processor, talks, tables["VQ"], only=only, **way)
    assert {text for row in found for text in row} <= set(only)
    assert found == answer(talker, processor, talks, tables["VQ"], only=only)
    (single,) = {
        text
        for row in answer(talker, processor, talks, tables["VQ"], only=["12%"], **way)
        for text in row
    }
    assert single == "12%"


def test_of_the_texts_that_may_be_answered_it_is_the_one_that_the_model_leads_to(
    new_model, processor, talks, tables
):
    (token,) = processor.ids_of("7")
    found = answer(
        saying(new_model("VQ-VQ"), token),
        processor,
        talks,
        tables["VQ"],
        only=["7", "777", "12%", "1"],
    )
    # not 7777, which it would say if it might
    assert {text for row in found for text in row} == {"777"}


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("architecture", ["VQ-VQ", "SigLIP-VQ"])
def test_a_log_likelihood_is_the_sum_over_the_answers_tokens_one_by_one(
    architecture, batch_size, new_model, processor, tables, watches
):
    model = new_model(architecture).eval().double()
    table = tables[architecture.split("-")[0]].astype(int if architecture == "VQ-VQ" else float)
    talks = make_conversations(watches[:6], "vqa", 0, turns=(1, 1)) + make_conversations(
        watches[6:9], "caption", 0
    )
    expected = []
    with torch.no_grad():
        for talk in talks:
            ids, value = [processor.bos] + processor.human_ids(talk.turns[0].human), 0.0
            for token in processor.ids_of(" " + talk.turns[0].gpt):
                embeds = model.embed(torch.tensor([ids]), torch.from_numpy(table[talk.image][None]))
                logits = model.language_model.lm_head(
                    model.hidden_states(embeds, use_cache=False)[0, -1]
                )
                value += float(torch.log(torch.softmax(logits, -1))[token])
                ids = ids + [token]
            expected.append(value)
    model = model if architecture == "VQ-VQ" else model.float()
    found = log_likelihoods(model, processor, talks, table, batch_size=batch_size)
    np.testing.assert_allclose(
        [value for value, _ in found], expected, rtol=1e-10 if architecture == "VQ-VQ" else 1e-4
    )
    assert not any(greedy for _, greedy in found) and len(set(expected)) == len(talks)


def test_an_answer_is_greedy_only_if_the_model_would_say_all_of_it(new_model, processor, tables):
    (token,) = processor.ids_of(" the")
    model = saying(new_model("VQ-VQ"), token)
    talks = [
        Conversation("vqa", 0, (Turn(f"{IMAGE}\nso?", text),))
        for text in ("the the the", "the", "the sun", "no")
    ]
    found = log_likelihoods(model, processor, talks, tables["VQ"])
    assert [greedy for _, greedy in found] == [True, True, False, False]


def test_a_question_longer_than_the_language_model_reads_is_refused(
    new_model, processor, tables, talks, monkeypatch
):
    model = new_model("VQ-VQ").eval()
    # the begin of a text
    longest = max(len(processor.human_ids(talk.turns[0].human)) for talk in talks) + 1
    monkeypatch.setattr(model.config.text_config, "max_position_embeddings", longest)
    first = [Conversation("vqa", talk.image, talk.turns[:1]) for talk in talks]
    answer(model, processor, first, tables["VQ"], limit=1)
    monkeypatch.setattr(model.config.text_config, "max_position_embeddings", longest - 1)
    with pytest.raises(
        ValueError,
        match=f"The conversation has {longest} tokens, and the "
        f"language model reads at most {longest - 1}; shorten it",
    ):
        answer(model, processor, first, tables["VQ"], limit=1)
