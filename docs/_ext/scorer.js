// How the search orders its results: Sphinx's scores, with the algorithms' pages first and what is generated last.
"use strict";

var Scorer = {
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
  parts: { algorithms: 20, introduction: 10, code: -5, api: -5, changelog: -10 },
  score: ([page, , , , score]) => score + (Scorer.parts[page.split("/")[0]] ?? 0),
};
