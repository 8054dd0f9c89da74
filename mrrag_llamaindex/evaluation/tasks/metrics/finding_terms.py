"""The findings that reports are compared by, and the words that name, deny or doubt one.

The names are those of CheXpert's labels (Irvin et al., 2019), its "no finding" left out: it follows
from the others. The words are the project's own, short on purpose: what a word list misses, a
learned labeler finds (CheXbert, by the extra ``radiology-metrics``).
"""

from __future__ import annotations

FINDING_TERMS: dict[str, tuple[str, ...]] = {
    "enlarged cardiomediastinum": (
        r"(?:enlarged|widened|wide) (?:cardio)?mediastin\w+",
        r"mediastinal (?:widening|enlargement)",
    ),
    "cardiomegaly": (
        r"cardiomegaly",
        r"(?:enlarged|enlargement of the) (?:heart|cardiac)(?: silhouette)?",
        r"(?:heart|cardiac silhouette|heart size|cardiac size) is (?:\w+ )?enlarged",
    ),
    "lung opacity": (
        r"(?:opacit(?:y|ies)|opacifications?|infiltrates?)",
        r"air ?space disease",
    ),
    "lung lesion": (r"(?:nodul(?:e|es|ar)|mass(?:es)?|tumou?rs?|metastas[ei]s|granulomas?)",),
    "edema": (
        r"o?edema",
        r"(?:pulmonary )?vascular congestion",
        r"congestive (?:heart )?failure",
    ),
    "consolidation": (r"consolidat\w+",),
    "pneumonia": (r"(?:broncho)?pneumonias?",),
    "atelectasis": (r"atelecta\w+",),
    "pneumothorax": (r"(?:hydro)?pneumothora(?:x|ces)",),
    "pleural effusion": (r"effusions?", r"pleural fluid"),
    "pleural other": (r"pleural thickening", r"(?:hemo|haemo)thorax", r"fibrothorax"),
    "fracture": (r"fractur\w+",),
    "support devices": (
        r"pace ?makers?",
        r"(?:central|picc) (?:venous )?(?:line|catheter)s?",
        r"(?:endotracheal|nasogastric|chest|tracheostomy) tubes?",
        r"(?:port-a-cath|port ?catheter|sternal wires?|defibrillators?)",
    ),
}
"""Finding to regular expressions, of whole words in small letters."""

DENIED_BEFORE = (
    r"no",
    r"not",
    r"without",
    r"negative for",
    r"free of",
    r"clear of",
    r"absen(?:ce of|t)",
    r"resolved",
    r"resolution of",
    r"rule[sd]? out",
    r"neither",
    r"nor",
    r"denies",
)
"""What denies a finding that stands after it in the same part of a sentence."""

DENIED_AFTER = (
    r"(?:is|are|was|were|has been|have been)? ?(?:not (?:\w+ )?(?:seen|identified|present|evident|"
    r"detected|visuali[sz]ed|appreciated)|absent|excluded|ruled out)",
    r"(?:has|have)? ?(?:resolved|cleared)",
    r": ?(?:no|none|absent|negative)",
)
"""What denies a finding that stands right before it."""

DOUBTED_BEFORE = (
    r"possibl[ey]",
    r"probabl[ey]",
    r"questionable",
    r"suspected",
    r"suspicious for",
    r"suggest\w*",
    r"concern\w* (?:for|about)",
    r"may (?:be|represent|reflect|indicate)",
    r"might (?:be|represent|reflect|indicate)",
    r"could (?:be|represent|reflect|indicate)",
    r"(?:cannot|can not|could not|can't) (?:be )?(?:exclude|rule out)",
    r"(?:not|difficult to) (?:exclude|rule out)",
    r"versus",
    r"vs",
    r"likely",
    r"if",
)
"""What leaves a finding after it open; it outweighs a denial ("cannot exclude")."""

DOUBTED_AFTER = (
    r"(?:cannot|can not|could not|can't|not) (?:be )?(?:entirely )?(?:excluded|ruled out)",
    r"(?:is|are) (?:possible|probable|suspected|questioned|likely|not excluded)",
)
"""The same right behind it."""

BREAKS = (
    r"but",
    r"however",
    r"although",
    r"though",
    r"except",
    r"which",
    r"with",
    r"there (?:is|are)",
)
"""Where the reach of a word before a finding ends, besides punctuation other than a comma."""
