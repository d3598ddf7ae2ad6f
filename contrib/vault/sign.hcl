# The rights of a daemon that signs and no more ("enabled = false" in [keeper]):
#
#   vault policy write waxseal-sign sign.hcl
#   vault write auth/approle/role/waxseal-sign token_policies=waxseal-sign token_period=24h
#
# It reads domains, and lists them when it is asked whether the keystore answers.
# The policy "default", which tokens have by themselves, lets it renew its token.
# For vault://HOST/secret/waxseal; other paths and mounts go here, too.
path "secret/data/waxseal/*" {
  capabilities = ["read"]
}

path "secret/metadata/waxseal" {
  capabilities = ["list"]
}

# It says that it lives, for "store status".
path "secret/metadata/waxseal/status/nodes/*" {
  capabilities = ["create", "update"]
}

# With transit=transit in the URL.
path "transit/sign/*" {
  capabilities = ["update"]
}
