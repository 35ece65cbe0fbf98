/// Who the other members are and where, put together from what a node was told when it was started and from what it
/// finds out.
///
/// Pure. What cannot be asked any more, a name service or a registry that is gone, goes on counting as it was last:
/// whether a member is alive its feed tells.
package struct Membership: Sendable {
  /// Where a member was learned of. Of two that tell different things the first counts.
  package enum Origin: Int, Comparable, CaseIterable, Sendable {
    case told, registry, service
    package static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
  }

  package struct Place: Hashable, Sendable {
    package let name: PeerName
    /// Whether it must have that name. One that a name service knows only by its address is called by that.
    package let isNamed: Bool
    package let address: StreamAddress

    package init(name: PeerName, isNamed: Bool = true, address: StreamAddress) {
      self.name = name
      self.isNamed = isNamed
      self.address = address
    }

    /// One that is known by its address alone.
    package init(at address: StreamAddress) {
      self.init(name: PeerName(address.description), isNamed: false, address: address)
    }
  }

  package enum Change: Equatable, Sendable {
    case joined(Place)
    case left(PeerName)
  }

  private let own: PeerName
  private let most: Int
  private var found: [Origin: [Place]] = [:]
  package private(set) var places: [PeerName: Place] = [:]
  /// What was last told of each thing that is wrong.
  private var complaints: Set<String> = []

  package init(own: PeerName, limits: Limits) {
    self.own = own
    most = limits.peersMax
  }

  /// What one origin says now, all of it.
  ///
  /// - Returns: What has changed by it, in the order of names, what left before what joined; and what an operator should know.
  package mutating func found(
    _ these: [Place], by origin: Origin
  ) -> (changes: [Change], complaints: [String]) {
    found[origin] = these
    var now: [PeerName: Place] = [:]
    var taken: [StreamAddress: PeerName] = [:]
    var wrong: Set<String> = []
    for origin in Origin.allCases {
      for place in (found[origin] ?? []).sorted(by: Self.isBefore) where place.name != own {
        if let other = now[place.name] {
          // The same of two origins, or of one that says it twice.
          if other.address != place.address, origin != .service {
            wrong.insert("\(place.name) is said to be at \(other.address) and at \(place.address)")
          }
          continue
        }
        if let other = taken[place.address] {
          // Known by its name already.
          if place.isNamed {
            wrong.insert("\(other) and \(place.name) are said to be at \(place.address)")
          }
          continue
        }
        guard now.count < most else {
          wrong.insert("more than \(most) members are found: \(place.name) is left out")
          continue
        }
        now[place.name] = place
        taken[place.address] = place.name
      }
    }
    defer {
      places = now
      complaints = wrong
    }
    let gone = places.values.filter { now[$0.name] != $0 }.sorted(by: Self.isBefore)
    let new = now.values.filter { places[$0.name] != $0 }.sorted(by: Self.isBefore)
    return (
      gone.map { .left($0.name) } + new.map { .joined($0) },
      wrong.subtracting(complaints).sorted()
    )
  }

  private static func isBefore(_ a: Place, _ b: Place) -> Bool {
    (a.name.text, a.address.description) < (b.name.text, b.address.description)
  }
}
