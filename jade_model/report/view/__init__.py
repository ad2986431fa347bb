"""The numbers of a comparison's report, as rows and phrases for its template: what is computed, not how it reads."""
