# An example: what AWS needs around a gate for one RDS instance. The gate itself runs where you like; give it the security
# group and the role (on EKS through its service account, on EC2 as an instance profile).

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.40"
    }
  }
}

variable "name" {
  description = "The integration's name, such as orders-prod."
  type        = string
}

variable "vpc_id" {
  description = "The VPC of the instance and the gate."
  type        = string
}

variable "client_cidrs" {
  description = "The networks from which people connect to the gate."
  type        = list(string)
}

variable "trusted_principal" {
  description = "Who may take the gate's role: a service such as ec2.amazonaws.com, ecs-tasks.amazonaws.com or pods.eks.amazonaws.com."
  type        = string
  default     = "ec2.amazonaws.com"
}

variable "engine_family" {
  description = "The parameter group's family, such as postgres17."
  type        = string
}

# --- The network: only the gate reaches the server ---

resource "aws_security_group" "gate" {
  name_prefix = "hourgate-"
  description = "Hourgate: people connect to it"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "people" {
  for_each          = toset(var.client_cidrs)
  security_group_id = aws_security_group.gate.id
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 6432
  to_port           = 6432
}

resource "aws_vpc_security_group_egress_rule" "server" {
  security_group_id            = aws_security_group.gate.id
  referenced_security_group_id = aws_security_group.server.id
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
}

# Secrets Manager and STS. A VPC endpoint's security group is better, if you have one.
resource "aws_vpc_security_group_egress_rule" "aws" {
  security_group_id = aws_security_group.gate.id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

# For the DB instance. Add the applications' own rules; people's networks have none, so that they can't go past the gate.
resource "aws_security_group" "server" {
  name_prefix = "hourgate-server-"
  description = "PostgreSQL behind Hourgate"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "gate" {
  security_group_id            = aws_security_group.server.id
  referenced_security_group_id = aws_security_group.gate.id
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
}

# --- The server's parameters: see SECURITY.md ---

resource "aws_db_parameter_group" "server" {
  name_prefix = "hourgate-"
  family      = var.engine_family

  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }

  # People can't give their role a password. The admin then needs GRANT rds_password.
  parameter {
    name         = "rds.restrict_password_commands"
    value        = "1"
    apply_method = "pending-reboot"
  }

  parameter {
    name         = "max_prepared_transactions"
    value        = "0"
    apply_method = "pending-reboot"
  }
}

# --- The admin's secret, and who may read it ---

# Its value is not here, where it would be in Terraform's state: put it in with
# aws secretsmanager put-secret-value --secret-id NAME --secret-string file://secret.json
resource "aws_secretsmanager_secret" "admin" {
  name_prefix = "hourgate/${var.name}/"
  description = "The admin user of Hourgate on ${var.name}"
}

resource "aws_iam_role" "gate" {
  name_prefix = "hourgate-"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = var.trusted_principal }
      Action    = var.trusted_principal == "pods.eks.amazonaws.com" ? ["sts:AssumeRole", "sts:TagSession"] : ["sts:AssumeRole"]
    }]
  })
}

resource "aws_iam_role_policy" "secret" {
  name_prefix = "read-secret-"
  role        = aws_iam_role.gate.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "ReadTheAdminsSecret"
      Effect   = "Allow"
      Action   = "secretsmanager:GetSecretValue"
      Resource = aws_secretsmanager_secret.admin.arn
    }]
  })
}

output "gate_security_group" {
  value = aws_security_group.gate.id
}

output "server_security_group" {
  value = aws_security_group.server.id
}

output "server_parameter_group" {
  value = aws_db_parameter_group.server.name
}

output "gate_role_arn" {
  value = aws_iam_role.gate.arn
}

output "secret_id" {
  description = "For secret.aws_secrets_manager.secret_id in config.yaml."
  value       = aws_secretsmanager_secret.admin.arn
}
