"""IFA inside vLLM: attention steered per request, in the engine that people serve with.

How it fits together
--------------------
A request carries its plan as one argument; everything else is the engine's own batching, chunked
prefill, prefix cache and preemption::

    from mrrag_llamaindex.steering.wire.request_plan import RequestPlan, to_extra_args
    from mrrag_llamaindex.steering.wire.request_report import RequestReport
    from mrrag_llamaindex.serving.vllm.arguments import engine_arguments

    llm = LLM(**engine_arguments(), model=..., ...)     # or AsyncEngineArgs(**engine_arguments())
    plan = RequestPlan.of(prompt.spans, prompt.lambdas, policy, layers)
    params = SamplingParams(temperature=0, extra_args=to_extra_args(plan))
    answer = llm.generate(..., params)[0].outputs[0]
    RequestReport.of(answer.stop_reason, plan)          # raises if steering did not happen

Over HTTP the same dictionary is the field ``vllm_xargs`` of a completion or a chat completion, and
the report is ``choices[0].stop_reason``, in a stream that of its last chunk. The server::

    MRRAG_VLLM=1 vllm serve MODEL $(python -m mrrag_llamaindex.serving.vllm.arguments)

A request without a plan, or with none of its documents preferred (`RequestPlan.of` raises: leave
the plan out), is vLLM's own, bit for bit, and its ``stop_reason`` is vLLM's. A request that fails
has the ``finish_reason`` "error"; in process its ``stop_reason`` says why, over HTTP it is an error
500 whose reason stands in the server's log. A plan that is not well-formed is an error 400 that
names the field. Spans count tokens after image expansion; the plan's ``length`` is compared with
the engine's. Stop strings end a request outside of the engine, which then reports nothing: use
token ids. One answer per request: ``n`` stays 1.

What is refused by name when an engine starts: see `checks`.

Files
-----
arguments
    What an engine has to be started with; no import of vLLM.
plugin
    The entry point; registers the attention classes, only if asked to.
backends
    vLLM's attention classes with the overlay, by one factory.
overlay
    Question rows again, with the plan's formula, over those of the engine.
paged
    Keys and values of one request from the paged cache.
batch
    Which row of the running batch has which plan.
scheduling
    Plans checked, cached blocks kept apart, reports.
checks
    What an engine must be like.
"""
