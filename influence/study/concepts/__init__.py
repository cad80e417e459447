"""The concepts of a study: what is probed, which queries ask the same, and which training rows state it."""

from influence.study.concepts.concept import Concept as Concept
from influence.study.concepts.concept import skip_reason as skip_reason
from influence.study.concepts.corpora import next_word_concepts as next_word_concepts
from influence.study.concepts.mastery import mastery as mastery
from influence.study.concepts.user import user_concepts as user_concepts
from influence.study.concepts.whole import tried as tried
from influence.study.concepts.whole import world_concepts as world_concepts
