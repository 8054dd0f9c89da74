"""Every default that the paper does not give, with the reason for our choice.

MR-RAG (Li et al., CVPR 2026) leaves these open. They are ours, they are named options
wherever they are used, and this is the only place where their values stand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

CANDIDATES = 15
"""Pairs fetched per question. The paper names "top 15" without saying whether all are read."""

MAX_DOCUMENTS = 6
"""Documents that enter the prompt. Users of earlier systems report 6 to 10 as best, and more
than that dilutes the attention of a 7B model."""

TEMPERATURE = 0.07
"""InfoNCE temperature tau, the value of CLIP at initialisation."""

HEAD_TEMPERATURE = 0.2
"""InfoNCE temperature of projection heads on frozen backbones: with a few hundred pairs, CLIP's
.07 is best after one epoch and overfits from there on (seen on 200 chest images)."""

QUESTION_WEIGHT = 0.3
"""Weight of each of the two losses that questions add to the training of heads (question to report
and question to image). The best of those tried on 2,050 CT and MR images with histories."""

HIDDEN_WIDTH = 512
"""Width of the hidden layer of an image head, where one is tried."""

HIDDEN_FROM = 500
"""Training pairs from which a hidden layer is tried at all: with 200 it has nothing to learn from,
and a validation part of thirty pairs cannot tell the difference."""

HALF_LENGTH = 512
"""Numbers of an image's or a text's vector, where raw features are kept: 1,024 for a pair. A query
at 100,000 pairs takes in proportion to it, and indexes of some stores end at 2,000."""

ENSEMBLE = 3
"""Heads that are trained and kept side by side: their mean finds 1 to 3 points more than one."""

PRIORS = (0.25, 0.5, 1.0, 2.0, float("inf"))
"""Priors that are tried when fusion weights are learned, the narrowest first: standard deviations
of a weight around equal ones. The validation patients choose."""

VOTE_DOCUMENTS = 15
"""Pairs whose own answers are counted by a vote: as many as are fetched for a generator, which
reads the best of them alone."""

VOTE_TEMPERATURE = 0.1
"""Of the softmax over scores by which the answers of retrieved pairs are weighed."""

NEGATIVES = 4
"""Negatives m per training question in D_train: the least confident of the candidates."""

FUSION_LEARNING_RATE = 1e-2
"""Adam learning rate for the three fusion scalars: they start at 1 and move by tenths."""

STRENGTH = 1.0
"""Factor on lambda: 1 is the paper's formula."""

QUESTION_ROWS: Literal["question", "to_end"] = "to_end"
"""Steered rows: from the question to the end of the prompt. The paper steers the question's tokens
(``"question"``). Every chat template puts tokens behind the question (``[/INST]``, ``ASSISTANT:``),
and the last of them, which gives the answer, reads the documents directly, past the question. In
a pilot on a pretrained language model of 135M parameters (VQA-RAD's yes/no questions, three of
four documents irrelevant, one seed), steering the question alone won .02 and to the end of the
prompt .15. Where a prompt ends with the question, as the phantom's, both are the same."""

EVERY_STEP = False
"""Whether IFA and the hard mask steer the rows of generated tokens, too. The paper steers the
question's, in prefill. A yes or no is read off those; a long answer is read off the rows of its own
tokens, which read the documents directly. docs/evaluation.md has where it helps and where it
harms."""

DRAFT_PROMPT = "Describe the findings."
"""What is asked for a draft of a report."""

DRAFT_EFFECT = 0.1
"""Nats per token from which a case, or the image, counts as having moved a sentence of a draft: the
sentence's tokens then are, in the geometric mean, a tenth more or less likely with it. Lower, and
cases that do not speak of a finding are named as its source; docs/evaluation.md counts them."""

IMAGE_LAMBDA = 0.0
"""Lambda of the query image in IFA; 0 is the paper's formula, which leaves the image as it is.

Softmax shares attention out, so what raised documents gain the image loses with all else. The floor
is ours: the image counts as a document of this relevance, in [0, 1] as lambda is, and only where a
document is raised, since nothing else takes from it. At 1 the image is raised as the most relevant
document is. docs/evidence.md has what it does where image and reports disagree."""

EF_SEARCH = 400
"""HNSW search width: recall@10 of the hardest fused direction is 1.000 at 100k pairs."""

NEGATIVE_EF_SEARCH = 1600
"""Search width where a weight is negative. The graph joins pairs that are alike, and such a
question looks for some that are not: of six weights at 100k pairs (synthetic vectors), recall@10
with signs mixed was .979 at 400 and .999 at 1600, and with half of them negative .935 and .994."""

EF_CONSTRUCTION = 200
"""HNSW build width, see `EF_SEARCH`."""

MAX_NEIGHBORS = 32
"""HNSW graph degree M, see `EF_SEARCH`."""

INGEST_BATCH = 32
"""Pairs embedded and written at once: what a kill during ingest can cost."""

MAX_REPORT_CHARACTERS = 50_000
"""A longer report is refused at ingest: no single report is that long, so it is most likely
several patients' reports in one field."""

MAX_QUESTION_CHARACTERS = 50_000
"""A longer question is refused before it is read: no window holds it, and to find that out by
counting the tokens of megabytes takes minutes."""

MIN_IMAGE_SIDE = 16
"""Pixels. A smaller image is a placeholder, not a study."""

MAX_IMAGE_PIXELS = 200_000_000
"""Pixels, 14,000 x 14,000: above any radiograph, below what exhausts memory."""

MAX_DECODING_BYTES = 512 * 2**20
"""Memory that decoding one image may take beside its file: a grey film of 16 bits may have 70
million pixels, a mammogram has 30. Compressed, an image of gigabytes fits into a few kilobytes."""

MAX_QUERY_IMAGES = 8
"""Images of one question. A study has two to four views; slices of a volume would fill the prompt
with tokens, and no towers here read volumes."""

MAX_IMAGE_BYTES = 8 * MAX_IMAGE_PIXELS
"""Bytes of an image file: four channels of 16 bits, uncompressed, for every pixel allowed."""

MAX_NEW_TOKENS = 256
"""Answer length: questions of this field are answered in a sentence or two."""

BATCH_SIZE = 8
"""Questions answered at once: a 7B model in bfloat16 needs about 3 GiB of cache for eight prompts
of six reports, and more rows gain little once the device is busy."""

BATCH_WAIT = 0.005
"""Seconds that a batch which could take more questions waits for those that are being prepared:
little beside the forward pass of any model, and never added to a question that is alone."""

MAX_QUEUE = 512
"""Questions that may wait for one model. Each holds its image as the model takes it, about 1 MB,
and all of them are some minutes of work for a 7B model on one GPU: who comes later is told so."""

QUEUE_TIMEOUT = None
"""Seconds that a question may wait; None is without end. A library cannot know how slow a device
is, nor how patient its caller; a server should set one."""

REQUEST_TIMEOUT = 300.0
"""Seconds that a server with vLLM may take for one answer: a long one of a 7B model takes ten on a
GPU, and what takes minutes is a server that hangs, or has too many to answer."""

PREFIX_CACHE = 1
"""Images with their documents whose keys and values are kept: follow-up questions come about the
patient at hand, and each kept prefix costs a 7B model about 250 MiB."""

TURN_CAPACITY = 65_536
"""Turns of conversations of which it is remembered which image they were about: 10 MB of digests,
for all conversations of a process."""

TICKET_CAPACITY = 4096
"""Questions whose evidence is held at once; the least recently used leaves first."""

TICKET_BYTES = 256 * 2**20
"""Bytes of query images and reports that held evidence may take: dozens of radiographs as files of
some megabytes each, and little beside a model. The newest question's evidence is always held."""

TICKET_SECONDS = 3600.0
"""Seconds for which a question's evidence is held: a stream may be read long after it was made."""

CONTINUATION_WORDS = 25
"""Words between continuation marks in a document, so that a split chunk stays attributable."""

DEFAULT_MODEL = "microsoft/llava-med-v1.5-mistral-7b"
"""The model of the paper."""

IMAGE_ENCODER = "google/mobilenet_v2_1.0_224"
"""Image encoder of `mrrag eval --data vqa-rad`: public, 14 MB, of the transformers library, and
quick on a CPU. It has never seen a radiograph; any other may be named."""

TEXT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
"""Text encoder of the same: public, 90 MB, made for comparing sentences."""

PHANTOM = "phantom"
"""Name of the small synthetic towers and model shipped in the wheel."""

PHANTOM_DESCRIBING = "phantom-describing"
"""Name of the small synthetic model that writes reports, shipped as well."""

PHANTOM_MODELS = {PHANTOM: "llava", PHANTOM_DESCRIBING: "describing"}
"""Shipped models by name, with their folders below `PHANTOM_FOLDER`."""

PHANTOM_FOLDER = Path(__file__).parent / "phantom" / "weights"
"""Folder of the shipped weights: ``llava``, ``describing``, ``towers`` and the towers'
``fusion_weights.json``."""

RELEVANCE_THRESHOLD = 0.5
"""Lambda from which `HardMask` keeps a document and `PASTA` highlights it: the middle of the
range, so that neither is tuned in its favour."""

PASTA_ALPHA = 0.01
"""PASTA's factor on attention to what is not highlighted, the original's default."""

PAI_ALPHA = 0.2
"""PAI's factor on image logits, from the original's read-me."""

PAI_GUIDANCE = 1.1
"""PAI's guidance factor, the original's default."""

PAI_CUTOFF = 0.1
"""PAI's guidance keeps tokens with at least this share of the likeliest token's probability."""

CAD_ALPHA = 0.5
"""CAD's alpha, which the original calls robust over models and summaries."""

MAD_RAG_ALPHA = 0.5
"""MAD-RAG's share of the first question's output; the paper has .5 and .7, by model."""

SEKA_GAIN, SEKA_NEGATIVE_GAIN = 0.8, 0.2
"""SEKA's gains of the relevant and the irrelevant projection, as in the authors' code; their tables
tune both for each model and task."""

SEKA_SHARE = 0.9
"""Share of the sum of singular values that SEKA's relevant projection keeps, as in their code."""

SEKA_LAYER_SHARE = 10 / 36
"""SEKA's layers, the last ten, as a share of the 36 layers of Qwen3-4B and 8B."""

ADA_SEKA_GAIN = 1.0
ADA_SEKA_DIRECTIONS = 3
"""AdaSEKA's gain and singular vectors of each expert, as in the authors' code."""

ADA_SEKA_EXPERTS = 4
"""AdaSEKA's experts: theirs are four data sets, ours four clusters of one set's questions."""

ITI_ALPHA = 15.0
ITI_HEAD_SHARE = 48 / 1024
"""ITI's alpha, and its heads as a share of all: 48 of the 32 x 32 of LLaMA-7B."""

KNOCKOUT_WINDOW_SHARE = 9 / 32
"""Layers blocked at once in the search for critical layers, as a share of all: 9 of 32, the window
of Zhang et al. (CVPR 2025; Geva et al. take 10). One layer alone is too little in a deep model,
whose next layers read the same again."""

CRITICAL_SHARE = 0.5
"""A layer is critical if blocking around it moves the answer at least half as much as blocking
around the layer that moves it most. The paper names no threshold."""

CRITICAL_CAP = 1 / 3
"""Most critical layers, as a share of all: steering every layer is destructive on real models."""
