\echo Use "ALTER EXTENSION pg_workflow UPDATE TO '0.1.0'" to load this file. \quit
