"""Options that the host would drop beside others, or fail on later, are refused by name."""

from __future__ import annotations

import pytest
from llama_index.core import QueryBundle
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.prompts import PromptTemplate
from llama_index.core.response_synthesizers import Refine, ResponseMode
from pydantic import BaseModel

from mrrag_llamaindex import MRRAGPostprocessor, MRRAGSynthesizer, answer_trace
from mrrag_llamaindex.errors import InputError

QUESTION = "Is there a nodule?"
TEMPLATE = PromptTemplate("{context_str} {query_str} {existing_answer}")
TEMPLATES = ("text_qa_template", "refine_template", "summary_template", "simple_template")
READ = {
    ResponseMode.REFINE: {"text_qa_template", "refine_template"},
    ResponseMode.COMPACT: {"text_qa_template", "refine_template"},
    ResponseMode.SIMPLE_SUMMARIZE: {"text_qa_template"},
    ResponseMode.TREE_SUMMARIZE: {"summary_template"},
    ResponseMode.GENERATION: {"simple_template"},
    ResponseMode.NO_TEXT: set(),
    ResponseMode.ACCUMULATE: {"text_qa_template"},
    ResponseMode.CONTEXT_ONLY: set(),
    ResponseMode.COMPACT_ACCUMULATE: {"text_qa_template"},
}


class Finding(BaseModel):
    present: bool


@pytest.mark.parametrize("mode", list(ResponseMode))
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_the_mode_reads_is_in_its_prompts_and_any_other_refused(
    hospital, llm, mode, name
):
    options = {"llm": llm, "response_mode": mode.value, name: TEMPLATE}
    if name in READ[mode]:
        prompts = hospital.index.as_query_engine(**options).get_prompts()
        # Generation keeps its template to itself.
        assert TEMPLATE in prompts.values() or mode == ResponseMode.GENERATION
        return
    with pytest.raises(InputError, match=f"cannot honour {name}: response_mode='{mode.value}'"):
        hospital.index.as_query_engine(**options)


@pytest.mark.parametrize(
    ("name", "multimodal"), [("text_qa_template", True), ("chat_content_qa_template", False)]
)
def test_templates_of_text_and_of_content_have_their_own_way(hospital, llm, name, multimodal):
    with pytest.raises(InputError, match=f"cannot honour {name} with multimodal={multimodal}"):
        hospital.index.as_query_engine(llm=llm, multimodal=multimodal, **{name: TEMPLATE})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("response_mode", "refine"),
        ("text_qa_template", TEMPLATE),
        ("streaming", True),
        ("output_cls", Finding),
        ("use_async", True),
        ("multimodal", True),
    ],
)
def test_what_a_given_synthesizer_decides_is_not_said_twice(hospital, llm, name, value):
    synthesizer = MRRAGSynthesizer(llm=llm)
    with pytest.raises(InputError, match=f"{name} beside response_synthesizer"):
        hospital.index.as_query_engine(response_synthesizer=synthesizer, **{name: value})


def test_what_a_given_synthesizer_says_as_well_is_taken(hospital, llm, image):
    synthesizer = Refine(llm=llm, text_qa_template=TEMPLATE, streaming=True)
    engine = hospital.index.as_query_engine(
        response_synthesizer=synthesizer, text_qa_template=TEMPLATE, streaming=True, llm=llm
    )
    response = engine.query(QueryBundle(QUESTION, image_path=str(image)))
    assert "".join(response.response_gen)
    assert answer_trace(response)


def test_citations_refuse_what_they_would_drop(hospital, llm):
    options = {"llm": llm, "citation_qa_template": TEMPLATE}
    with pytest.raises(InputError, match="cannot honour citation_qa_template"):
        hospital.index.as_citation_engine(response_mode="tree_summarize", **options)
    with pytest.raises(InputError, match="citation_qa_template beside response_synthesizer"):
        hospital.index.as_citation_engine(response_synthesizer=MRRAGSynthesizer(llm=llm), **options)
    prompts = hospital.index.as_citation_engine(**options).get_prompts()
    assert TEMPLATE in prompts.values()


@pytest.mark.parametrize("make", ["as_query_engine", "as_citation_engine"])
def test_two_llms_for_one_answer_are_refused(hospital, llm, make):
    for one, other in ((llm, MockLLM()), (MockLLM(), llm)):
        with pytest.raises(InputError, match="another LLM"):
            getattr(hospital.index, make)(one, response_synthesizer=Refine(llm=other))


@pytest.mark.parametrize("other", [MockLLM(), "default", None])
def test_the_strict_synthesizer_takes_our_llm_alone(other):
    with pytest.raises(InputError, match="answers by MRRAGLLaVA"):
        MRRAGSynthesizer(llm=other)


def test_the_strict_synthesizer_does_not_stream_a_schema(hospital, llm, image):
    structured = llm.as_structured_llm(Finding)
    with pytest.raises(InputError, match="one whole answer"):
        MRRAGSynthesizer(llm=structured, streaming=True)
    engine = hospital.index.as_query_engine(response_synthesizer=MRRAGSynthesizer(llm=structured))
    response = engine.query(QueryBundle(QUESTION, image_path=str(image)))
    (answer,) = answer_trace(response)
    assert response.response == Finding(present=answer.p_yes >= answer.p_no)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"response_mode": "TREE"}, "no response_mode 'TREE'"),
        ({"response_mode": None}, "no response_mode None"),
        ({"text_qa_template": "{query_str}"}, "text_qa_template is a str"),
        ({"node_postprocessors": SimilarityPostprocessor()}, "node_postprocessors is a Simil"),
        ({"node_postprocessors": [None]}, "node_postprocessors holds a NoneType"),
        ({"node_postprocessors": [SimilarityPostprocessor]}, "holds a class"),
        ({"response_synthesizer": "compact"}, "response_mode="),
        ({"llm": 5}, "llm is a int"),
        ({"candidates": 0}, "candidates must be"),
        ({"candidates": "many"}, "candidates must be"),
        ({"weights": {"image_text": 1.0}}, "FusionWeights"),
        ({"exclude": "patient-07"}, "Exclusion"),
        ({"on_missing_image": "skip"}, "on_missing_image is 'skip'"),
        ({"stamped": "yes"}, "stamped is 'yes'"),
    ],
)
def test_values_that_mean_nothing_are_refused_at_once(hospital, llm, options, match):
    with pytest.raises(InputError, match=match):
        hospital.index.as_query_engine(**{"llm": llm, **options})


def test_what_else_makes_engines_refuses_the_same(hospital, llm):
    index = hospital.index
    with pytest.raises(InputError, match="node_postprocessors is a"):
        index.as_chat_engine("context", llm=llm, node_postprocessors=SimilarityPostprocessor())
    for make in (index.as_chat_engine, index.as_retriever, index.as_citation_engine):
        with pytest.raises(InputError, match="not an LLM"):
            make(llm=llm.engine)
    with pytest.raises(InputError, match="not an LLM"):
        MRRAGPostprocessor(index, llm=llm.engine)
    with pytest.raises(InputError, match="FusionWeights"):
        index.as_retriever().weights = 3


def test_a_synthesizer_without_prompts_takes_none(hospital, llm):
    engine = hospital.index.as_query_engine(response_synthesizer=MRRAGSynthesizer(llm=llm))
    with pytest.raises(InputError, match="takes no prompt 'text_qa_template'"):
        engine.update_prompts({"response_synthesizer:text_qa_template": TEMPLATE})
    engine.update_prompts({})


def test_an_index_of_pairs_is_not_built_from_nodes_again(hospital):
    with pytest.raises(InputError, match="insert_nodes"):
        hospital.index.build_index_from_nodes([])
