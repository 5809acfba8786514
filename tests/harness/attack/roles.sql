CREATE ROLE stranger LOGIN;
CREATE ROLE reader LOGIN IN ROLE workflow_reader;
CREATE ROLE writer LOGIN IN ROLE workflow_writer;
CREATE ROLE admin LOGIN IN ROLE workflow_admin;
CREATE ROLE tenant LOGIN IN ROLE workflow_writer;
CREATE ROLE tenant_admin LOGIN IN ROLE workflow_admin;
CREATE ROLE victim LOGIN IN ROLE workflow_writer;
CREATE ROLE database_owner LOGIN;
ALTER DATABASE workflow OWNER TO database_owner;
