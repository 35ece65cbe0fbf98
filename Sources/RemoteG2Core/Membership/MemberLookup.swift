/// What a node asks name services about its members, again and again, and what they are by the answers.
///
/// Pure. A question that could not be asked leaves its last answer as it is.
package struct MemberLookup: Sendable {
  /// Each with the port of the member's `--listen`; members listen to each other on the one after it.
  package enum Question: Hashable, Sendable {
    /// A member by its name and its host's.
    case member(PeerName, HostAndPort)
    /// Every address that a name has is some member's.
    case addresses(HostAndPort)
    /// The service's records name members: the first part of each host's name is the member's.
    case records(String)

    /// As on the command line, where members are found out: `dns:HOST:PORT` or `srv:NAME`. Nil when it is neither.
    package init?(_ text: String) {
      if text.hasPrefix("dns:"), let place = HostAndPort(String(text.dropFirst(4))), place.port > 0
      {
        self = .addresses(place)
      } else if text.hasPrefix("srv:"), text.utf8.count > 4, text.utf8.count < 258,
        text.dropFirst(4).utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F && $0 != 0x3A })
      {
        self = .records(String(text.dropFirst(4)))
      } else {
        return nil
      }
    }
  }

  package let questions: [Question]
  /// Members whose addresses are known without a question.
  private let fixed: [Membership.Place]
  private var answers: [[Membership.Place]]

  package init(_ questions: [Question], fixed: [Membership.Place]) {
    self.questions = questions
    self.fixed = fixed
    answers = Array(repeating: [], count: questions.count)
  }

  /// Asks each question once.
  ///
  /// - Parameters:
  ///   - addresses: Of a host, numeric, the best first. Nil: nobody could be asked. None: it has none.
  ///   - records: Of a service, in the same way.
  package mutating func ask(
    addresses: (String) -> [String]?, records: (String) -> [ServiceRecord]?
  ) {
    for (number, question) in questions.enumerated() {
      switch question {
      case .member(let name, let place):
        guard let hosts = addresses(place.host) else { continue }
        answers[number] = [choice(of: hosts, place.port, for: name, last: answers[number])]
          .compactMap { $0 }
      case .addresses(let place):
        guard let hosts = addresses(place.host) else { continue }
        answers[number] = hosts.map {
          Membership.Place(at: StreamAddress(host: $0, port: place.port + 1))
        }
      case .records(let service):
        guard let found = records(service) else { continue }
        let last = answers[number]
        answers[number] = found.compactMap { record in
          guard let label = record.host.split(separator: ".").first,
            (1..<65535).contains(record.port)
          else { return nil }
          let name = PeerName(String(label))
          let before = last.filter { $0.name == name }
          guard let hosts = addresses(record.host) else { return before.first }
          return choice(of: hosts, record.port, for: name, last: before)
        }
      }
    }
  }

  /// The address that it had, as long as it is one of those that there are: connections to it are open.
  private func choice(
    of hosts: [String], _ port: Int, for name: PeerName, last: [Membership.Place]
  ) -> Membership.Place? {
    let places = hosts.map {
      Membership.Place(name: name, address: StreamAddress(host: $0, port: port + 1))
    }
    return places.first { last.contains($0) } ?? places.first
  }

  /// Members that the node was told of by name.
  package var told: [Membership.Place] {
    fixed + answered { if case .member = $0 { true } else { false } }
  }

  /// Members that services are made of.
  package var ofServices: [Membership.Place] {
    answered { if case .member = $0 { false } else { true } }
  }

  private func answered(_ isMeant: (Question) -> Bool) -> [Membership.Place] {
    zip(questions, answers).filter { isMeant($0.0) }.flatMap(\.1)
  }
}
