// Package policy decides from the facts of a message whether it is ours to
// sign, for which domain, and whether its sender may have that signature.
//
// It is a pure function of its arguments: no file, no network, no clock, no
// log. The same facts always give the same decision, so a command can explain
// what the daemon did. Every decision says in words why it was taken. Where
// facts are missing or can be read in two ways, the decision is against a
// signature.
//
// The rules, sentence by sentence, as the tests have them:
//
// # Whose mail is ours
//
// Mail is ours when one of the origin rules matches, and is left alone when
// none does. Each rule can be switched off.
//
//   - A client in a skipped network is a stranger, whatever other rule would
//     match.
//   - Mail of an authenticated login is ours.
//   - Mail that was handed in on the machine itself is ours. No network holds
//     such mail, because the MTA has made up its client.
//   - Mail of a client in a listed network is ours, by default in the loopback
//     networks.
//   - Mail of a client with a TLS certificate is ours when the certificate, its
//     subject or its issuer is listed, or when any will do. It counts only if
//     the MTA has verified it: Postfix sends the names of no other, and all
//     else have to say OK in macro {verify}.
//   - Mail of a daemon with a listed name is ours, by default with the name
//     ORIGINATING.
//   - Mail is ours when the MTA has sent a listed macro, with one of the values
//     that are listed for it, if any are. A macro that strangers can set is
//     refused, and so is one that every connection has, without values.
//   - A listener that has origin rules of its own goes by them alone. They may
//     declare all its mail to be ours, which the rules for all listeners may
//     not.
//
// # The author
//
// The author domain is the one domain of all addresses in the one From field,
// as lower-case A-labels. Without such a field, with two of them, with two
// domains, or with anything in it that mail programs read in different ways,
// the message is not signable. The login, the envelope sender and other fields
// do not choose the domain.
//
// On a list server, other fields may choose it instead: the first of the
// configured ones that occurs once and names one domain. Sender, Resent-Sender
// and Resent-From name the domain of their addresses, List-Post and List-Owner
// that of their mailto addresses, and List-Id what stands behind its first dot.
// Where none of them names a domain, From does. From has to be sound in any
// case. No field makes mail ours. A signature that may count for the From field
// takes a permission for the domain of that field too.
//
// # Permission
//
// A login may sign for its own domain: ann@example.org for example.org, but for
// nothing above or below it. A login without a domain may sign for the mail
// server's own domain: the name that the MTA has for itself, and that name
// without its first label. A list of login domains takes the place of that. A
// login that ends in @ and the mail server's name, or in @ and no domain name,
// is a login without a domain as well. Where the password check ignores what
// stands behind the @ of a login, that can be kept from counting.
//
// Grants let a login, all logins of a domain, or all logins, sign for more: for
// domains, for what is below these where the grant says so, for single
// addresses, or for any domain. Grants and rows name a login as the MTA does:
// one for ann is not about ann@mx.example.org. Where addresses are named, all
// those of the author have to be. Who has logged in is held to this, whatever
// rule made the mail ours. Mail without a login may sign for any domain. If
// there are grants for its client's certificate or network, it may sign for
// what they name only, and the smallest network counts. Logins and addresses
// are compared without regard to upper and lower case. Permission can be
// switched off.
//
// # The selector table
//
// One row is used: that for the login, or else for the address, the domain, the
// nearest domain above that extends to what is below it, or all other mail. A
// domain without a row signs for itself. A row may sign as another domain. A
// row that extends to what is below its domain signs that as its domain, unless
// it names another. A row that is not about the author domain or address itself
// comes second to the author domain's own keys, unless it is to be used always.
// The row of a login that signs as another domain does so for any author, but
// the author domain's own keys still take a permission. Selectors and identity
// of a row are for the domain that it signs as, not for the author domain's own
// keys. The identity "address" is the author's, and is left out where there are
// several, where it is not in the signing domain, or where it is not ASCII. A
// row that is switched off leaves mail unsigned. Who may not sign for a domain
// is denied it, switched off or not. What a row has in place of general
// settings is passed on.
//
// # The sender query
//
// Where the keystore is asked which keys sign an author's mail, those of its
// answer are the author domain's own keys, and without an answer there are none.
// It is asked about the author's address, and of several about the first. A
// local part beyond ASCII or longer than mail allows is left out of the
// question. All keys of the answer sign together, whatever their domains. A row
// of the table that names a signing domain, selectors or an identity takes the
// place of the question, unless it comes second to the author domain's own
// keys. A row that comes second signs where the answer has no keys. Whatever
// else a row has is passed on beside the answer. Nobody is asked about mail that
// its sender may not sign, or that a row leaves unsigned.
package policy
