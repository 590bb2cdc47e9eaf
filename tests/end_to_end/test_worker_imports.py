"""What a worker loads, and that what it is spared is there as soon as it is needed. Each in a Python of its own."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.options.base import Options
from engine.options.jobs import ExportJob, TrainJob
from engine.runs.folder import Folder
from engine.runs.read import read_state
from engine.runs.record import update_state, write_job

PROJECT = Path(__file__).resolve().parents[2]
NOT_FOR_A_PLAIN_RUN = {
    "bitsandbytes", "trl", "modelscope", "gguf", "llama_cpp", "gradio", "webui", "networkx",
    "torch._inductor.compile_fx", "torch._inductor.lowering", "matplotlib.pyplot",
}  # fmt: skip


def printed(code: str) -> dict:
    """What ``code`` has left in ``found``, as JSON."""
    code = f"import sys\nsys.path.insert(0, {str(PROJECT)!r})\n{code}\nimport json\nprint('FOUND', json.dumps(found))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.rsplit("FOUND", 1)[1])


def asked(job: Options, folder: Path) -> Folder:
    """The folder of a run as it is when its worker is started."""
    run = Folder(folder)
    folder.mkdir()
    write_job(run, job, "en")
    update_state(run, kind=job.kind, status="starting", pid=None, started_at=time.time(), finished_at=None)
    return run


def trained(model: Path, folder: Path, **options) -> dict:
    """Do a training of one step as a worker does. Returns the modules loaded at its start and end, and its layers'."""
    values = {"model_name_or_path": str(model), "dataset": "identity", "max_steps": 1, "output_dir": str(folder)}
    run = asked(TrainJob.from_values({**values, "template": "smollm2", "report_to": "none", **options}), folder)
    found = printed(
        "from engine.work import __main__ as worker\n"
        "found = {'at_once': sorted(sys.modules)}\n"
        "def watched(kind, own=worker._work):\n"
        "    module = own(kind)\n"
        "    def look(model, count=module.count_parameters):\n"
        "        kinds = {type(each) for each in model.modules()}\n"
        "        found['layers'] = sorted(f'{kind.__module__}.{kind.__name__}' for kind in kinds)\n"
        "        return count(model)\n"
        "    module.count_parameters = look\n"
        "    return module\n"
        "worker._work = watched\n"
        f"found['code'] = worker.main({str(folder)!r}, None)\n"
        "found['in_the_end'] = sorted(sys.modules)"
    )
    assert found["code"] == 0, read_state(run).error
    return found


def test_a_plain_run_loads_only_what_it_uses(workplace, tiny_model, tmp_path):
    found = trained(tiny_model, tmp_path / "run")
    assert "torch" not in found["at_once"], "a worker says that it runs before it loads anything heavy"
    assert {"torch", "peft", "matplotlib.figure"} <= set(found["in_the_end"])
    assert "peft.tuners.lora.layer.Linear" in found["layers"]
    assert set(found["in_the_end"]) & NOT_FOR_A_PLAIN_RUN == set()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_base_gets_the_layers_made_for_it(workplace, tiny_model, tmp_path, bits):
    pytest.importorskip("bitsandbytes")
    found = trained(tiny_model, tmp_path / "run", quantization_bit=bits)
    assert f"peft.tuners.lora.bnb.Linear{'4bit' if bits == 4 else '8bitLt'}" in found["layers"]


def test_a_base_stored_quantized_gets_them_too(workplace, tiny_model, tmp_path):
    pytest.importorskip("bitsandbytes")
    stored = tmp_path / "stored"
    printed(
        "from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig\n"
        f"of = {str(tiny_model)!r}\n"
        "model = AutoModelForCausalLM.from_pretrained(of, quantization_config=BitsAndBytesConfig(load_in_4bit=True))\n"
        f"model.save_pretrained({str(stored)!r})\n"
        f"AutoTokenizer.from_pretrained(of).save_pretrained({str(stored)!r})\n"
        "found = {}"
    )
    found = trained(stored, tmp_path / "run")
    assert "peft.tuners.lora.bnb.Linear4bit" in found["layers"]


def test_an_optimizer_of_bitsandbytes_is_found(workplace, tiny_model, tmp_path):
    pytest.importorskip("bitsandbytes")
    found = trained(tiny_model, tmp_path / "run", optim="adamw_bnb_8bit")
    assert "bitsandbytes.optim" in found["in_the_end"]


def test_transformers_reads_the_files_of_its_models_once_and_knows_all_of_them():
    found = printed(
        "reads = []\n"
        "def hook(event, given):\n"
        "    if event == 'open' and str(given[0]).endswith('modeling_llama.py'): reads.append(str(given[0]))\n"
        "sys.addaudithook(hook)\n"
        "from engine.work.imports import lean_imports\n"
        "with lean_imports():\n"
        "    from transformers import models\n"
        "once = len(reads)\n"
        "from transformers.utils import import_utils\n"
        "import_utils.create_import_structure_from_path.cache_clear()\n"
        "import_utils.define_import_structure.cache_clear()\n"
        "anew = import_utils.define_import_structure(models.__file__)\n"
        "names = {name for kinds in anew.values() for file in kinds.values() for name in file}\n"
        "found = {'once': once, 'then': len(reads), 'missing': sorted(names - set(dir(models))), 'all': len(names)}"
    )
    assert (found["once"], found["then"]) == (1, 2)
    assert found["missing"] == [] and found["all"] > 1000


def test_garbage_is_collected_again_after_an_import_even_one_that_fails():
    found = printed(
        "import gc\n"
        "from engine.work.imports import lean_imports\n"
        "found = {'within': None}\n"
        "try:\n"
        "    with lean_imports():\n"
        "        found['within'] = gc.isenabled()\n"
        "        import bitsandbytes\n"
        "except ModuleNotFoundError as error:\n"
        "    found['hidden'] = error.name\n"
        "found['after'] = gc.isenabled()\n"
        "found['left'] = 'bitsandbytes' in sys.modules"
    )
    assert found == {"within": False, "hidden": "bitsandbytes", "after": True, "left": False}


def exported(model: Path, adapter: Path, folder: Path) -> dict:
    """Do a merge as a worker does. Returns the modules loaded in its end."""
    values = {"model_name_or_path": str(model), "adapter_name_or_path": str(adapter), "export_dir": str(folder / "out")}
    run = asked(ExportJob.from_values(values), folder)
    found = printed(
        "from engine.work import __main__ as worker\n"
        f"found = {{'code': worker.main({str(folder)!r}, None), 'in_the_end': sorted(sys.modules)}}"
    )
    assert found["code"] == 0, read_state(run).error
    assert read_state(run).result["verified"]["logits_streamed"] is True
    return found


def test_a_merge_loads_no_compiler_and_no_groups_of_processes(workplace, tiny_model, tmp_path):
    printed(
        "from peft import LoraConfig, get_peft_model\n"
        "from transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(tiny_model)!r})\n"
        "config = LoraConfig(target_modules='all-linear', init_lora_weights=False)\n"
        f"get_peft_model(model, config).save_pretrained({str(tmp_path / 'adapter')!r})\n"
        "found = {}"
    )
    found = exported(tiny_model, tmp_path / "adapter", tmp_path / "run")
    assert {"transformers.modeling_utils", "peft"} <= set(found["in_the_end"])
    unused = {"sympy", "torch._dynamo.symbolic_convert", "torch.distributed.tensor", "torch.distributed.fsdp"}
    assert set(found["in_the_end"]) & unused == set()


GENERATE = """
from engine.work.imports import lean_imports
with lean_imports():
    from transformers import AutoModelForCausalLM
import torch
from transformers import LlamaConfig
torch.manual_seed(0)
sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
          "num_attention_heads": 2, "num_key_value_heads": 2}
model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes))
"""


def test_answers_need_no_compiler():
    found = printed(
        f"{GENERATE}\n"
        "ids = torch.tensor([[0, 1, 2], [3, 4, 5]])\n"
        "model.generate(ids, attention_mask=torch.tensor([[0, 1, 1], [1, 1, 1]]), max_new_tokens=4, do_sample=True)\n"
        "found = sorted(sys.modules)"
    )
    assert {"sympy", "torch._dynamo.symbolic_convert", "torch.distributed.tensor"} & set(found) == set()


def test_the_compiler_is_there_when_it_is_used_and_knows_what_it_was_told_before():
    found = printed(
        f"{GENERATE}\n"
        "before, ids = 'sympy' in sys.modules, torch.tensor([[1, 2, 3]])\n"
        "package = sys.modules['torch._dynamo']\n"
        "@torch.compiler.disable\n"
        "def kept_out(x):\n"
        "    return x + 1\n"
        "@torch.compiler.disable(recursive=False)\n"
        "def kept_out_too(x):\n"
        "    return x + 1\n"
        "@torch.compiler.assume_constant_result\n"
        "def constant():\n"
        "    return calls.append(1) or 3\n"
        "calls, one = [], torch.ones(1)\n"
        "plain = [kept_out(one).item(), kept_out_too(one).item(), constant()]\n"
        "calls.clear()\n"
        "def whole(of):\n"
        "    try:\n"
        "        return torch.compile(lambda x: of(x) * 2, backend='eager', fullgraph=True)(one).item()\n"
        "    except torch._dynamo.exc.Unsupported:\n"
        "        return 'unsupported'\n"
        "times = torch.compile(lambda x: x * constant(), backend='eager', fullgraph=True)\n"
        "found = {'before': before, 'plain': plain, 'is_one': package is torch._dynamo,\n"
        "         'disabled': [whole(kept_out), whole(kept_out_too)], 'other': whole(torch.neg),\n"
        "         'constant': [times(one).item(), times(2 * one).item(), len(calls)],\n"
        "         'same': torch.equal(torch.compile(model, backend='eager')(ids).logits, model(ids).logits)}"
    )
    assert found == {"before": False, "plain": [2, 2, 3], "is_one": True, "disabled": ["unsupported", "unsupported"],
                     "other": -2, "constant": [3, 6, 1], "same": True}  # fmt: skip


def test_threads_that_need_the_compiler_at_once_all_get_it():
    found = printed(
        f"{GENERATE}\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from threading import Barrier\n"
        "together = Barrier(4)\n"
        "def look(_):\n"
        "    together.wait()\n"
        "    return torch._dynamo.is_compiling()\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    found = list(pool.map(look, range(4)))"
    )
    assert found == [False] * 4


@pytest.mark.parametrize("needs", ["nothing more", "the compiler"])
def test_another_torch_whose_part_of_the_compiler_does_not_stand_alone_is_loaded_as_ever(needs):
    found = printed(
        "class Other:\n"
        "    times = 0\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.endswith('._trace_wrapped_higher_order_op') and not self.times:\n"
        "            self.times += 1\n"
        f"            if {needs!r} == 'the compiler':\n"
        "                import torch\n"
        "                torch._dynamo.config\n"
        "            raise ValueError\n"
        "sys.meta_path.insert(0, Other())\n"
        f"{GENERATE}\n"
        "compiled = torch.compile(lambda x: x + 1, backend='eager')\n"
        "found = [compiled(torch.ones(1)).item(), model(torch.tensor([[1, 2]])).logits.shape[-1]]"
    )
    assert found == [2, 64]


@pytest.mark.parametrize(("version", "is_hidden"), [("5.14.1", False), ("5.15.0", True), ("6.0.0.dev0", True)])
def test_groups_of_processes_are_hidden_only_from_who_can_do_without(version, is_hidden):
    found = printed(
        "import importlib.metadata\n"
        "own = importlib.metadata.version\n"
        f"importlib.metadata.version = lambda name: {version!r} if name == 'transformers' else own(name)\n"
        "from engine.work.later import hide_groups\n"
        "hide_groups()\n"
        "import torch.distributed\n"
        "found = torch.distributed.is_available()"
    )
    assert found is not is_hidden
