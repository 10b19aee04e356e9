-- From a blob to what needs it: without them each look goes through all charts and pins.
CREATE INDEX chart_blob ON chart (blob);
CREATE INDEX chart_provenance ON chart (provenance) WHERE provenance IS NOT NULL;
CREATE INDEX pin_blob ON pin (blob);
