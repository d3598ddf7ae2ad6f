# The rights of the keeper, and of commands that change keys:
#
#   vault policy write waxseal-keep keep.hcl
#   vault write auth/approle/role/waxseal-keep token_policies=waxseal-keep token_period=24h
#
# It deletes no domain. For vault://HOST/secret/waxseal; other paths and mounts go
# here, too.
path "secret/data/waxseal/*" {
  capabilities = ["create", "read", "update"]
}

path "secret/metadata/waxseal" {
  capabilities = ["list"]
}

# When a key is removed, and by "store rewrap", what the engine keeps of former
# versions is destroyed.
path "secret/metadata/waxseal/*" {
  capabilities = ["read"]
}

# What "store status" tells of daemons and of the last change. Daemons that have
# not been heard of for a week are deleted.
path "secret/metadata/waxseal/status/*" {
  capabilities = ["create", "read", "update", "delete", "list"]
}

path "secret/destroy/waxseal/*" {
  capabilities = ["update"]
}

# With transit=transit in the URL. A new key signs to be tested; one that is removed
# is first allowed to be deleted ("config").
path "transit/sign/*" {
  capabilities = ["update"]
}

path "transit/keys/*" {
  capabilities = ["create", "read", "update", "delete"]
}
