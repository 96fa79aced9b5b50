using System.Text;
using Bunraku.Engines;

namespace Bunraku.Engine.Check;

/// <summary>
/// Keeps a reference vCPU in lock step with a subject: after each exit of the subject the reference is run to the same place, and exit and state are compared.
/// Both run on memories of their own and must see the same answers, the same time and the same writes of devices. One thread.
/// </summary>
internal sealed class Follower(IX86Cpu subject, IFollowingCpu reference)
{
    private readonly CpuState _subjectState = new(), _referenceState = new();
    private Place _offset; // how far the reference's counters are behind the subject's, since states were written over
    private X86Exit? _answered; // the reference's last exit, which the hypervisor's answer to the subject's completes

    /// <summary>State of the subject at its last exit.</summary>
    public CpuState SubjectState => _subjectState;

    /// <summary>Where the subject was at its last exit.</summary>
    public Place Place { get; private set; }

    /// <summary>To be called before the subject is entered again, with its last exit and what the hypervisor left there.</summary>
    public void Answer(X86Exit exit)
    {
        if (_answered is not { } own) return;
        (own.Data, own.Fault, own.Eax, own.Ebx, own.Ecx, own.Edx) = (exit.Data, exit.Fault, exit.Eax, exit.Ebx, exit.Ecx, exit.Edx);
        _answered = null;
    }

    /// <summary>Runs the reference to where the subject has returned with <paramref name="exit"/> and compares; no lines when they agree.</summary>
    public IReadOnlyList<string> Follow(X86Exit exit)
    {
        Place = Place.Of(subject);
        subject.ReadState(_subjectState);
        bool asynchronous = exit.IsAsynchronous;
        X86Exit own = reference.FollowTo(Minus(Place, _offset), beyond: !asynchronous);
        _answered = asynchronous ? null : own;
        Place there = Plus(Place.Of(reference), _offset);
        if (asynchronous ? own.Reason != ExitReason.Kicked : !ExitsEqual(exit, own))
        {
            string found = own.Reason == ExitReason.Kicked ? "none" : Describe(own);
            return [$"exit     subject {Describe(exit)} at {Show(Place)}, reference {found} at {Show(there)}", .. States()];
        }
        if (there != Place) return [$"place    subject {Show(Place)}, reference {Show(there)}", .. States()];
        reference.ReadState(_referenceState);
        if (asynchronous && _subjectState.Pending is { Kind: EventKind.Nmi } && _referenceState is { NmiPending: true, Pending: null }
            && reference.TakeHeldNmi()) reference.ReadState(_referenceState);
        // A repeated instruction stops where the subject looked up: for a kick, or for a posted write that waited.
        if ((asynchronous || exit is { Reason: ExitReason.Mmio, IsWrite: true }) && _referenceState.Rip == _subjectState.Rip
            && _referenceState.Gpr[1] != _subjectState.Gpr[1] && reference.IterateUntil(_subjectState.Gpr[1]))
            reference.ReadState(_referenceState);
        return StateComparer.AreEqual(_subjectState, _referenceState) ? [] : StateComparer.Differences(_subjectState, _referenceState);
    }

    /// <summary>Both vCPUs were given one state: from here on they are at the same place, and no exit is open.</summary>
    public void Restart()
    {
        _answered = null;
        Place a = Place.Of(subject), b = Place.Of(reference);
        _offset = Minus(a, b);
        Place = a;
    }

    private static Place Plus(Place a, Place b) => new(a.Retired + b.Retired, a.Exceptions + b.Exceptions);

    private static Place Minus(Place a, Place b) => new(a.Retired - b.Retired, a.Exceptions - b.Exceptions);

    private IReadOnlyList<string> States()
    {
        reference.ReadState(_referenceState);
        return StateComparer.Differences(_subjectState, _referenceState);
    }

    /// <summary>The exit waits for an answer: the instruction begins once more when it is entered again.</summary>
    internal static bool IsHalfDone(X86Exit exit) => exit.Reason switch
    {
        ExitReason.Io or ExitReason.Mmio => !exit.IsWrite,
        ExitReason.CrAccess => !exit.IsWrite || exit.Address != 8,
        ExitReason.Msr or ExitReason.Cpuid or ExitReason.Pause or ExitReason.DrAccess or ExitReason.DescriptorTable or ExitReason.Rdtsc
            or ExitReason.Rdpmc or ExitReason.Invlpg or ExitReason.Wbinvd or ExitReason.Hypercall => true,
        _ => false,
    };

    /// <summary>The exits ask for the same.</summary>
    public static bool ExitsEqual(X86Exit a, X86Exit b)
    {
        if (a.Reason != b.Reason) return false;
        return a.Reason switch
        {
            ExitReason.Io or ExitReason.Mmio or ExitReason.Msr or ExitReason.CrAccess =>
                a.IsWrite == b.IsWrite && a.Size == b.Size && a.Address == b.Address && (!a.IsWrite || a.Data == b.Data),
            ExitReason.Cpuid => (a.Leaf, a.Subleaf, a.Eax, a.Ebx, a.Ecx, a.Edx) == (b.Leaf, b.Subleaf, b.Eax, b.Ebx, b.Ecx, b.Edx),
            ExitReason.Exception => a.Address == b.Address && a.ErrorCode == b.ErrorCode && a.Vectoring == b.Vectoring,
            ExitReason.EptViolation => a.Address == b.Address && a.Violation == b.Violation && a.Vectoring == b.Vectoring,
            ExitReason.Rdtsc => a.Data == b.Data,
            ExitReason.DrAccess or ExitReason.Rdpmc or ExitReason.Invlpg => a.Address == b.Address && a.IsWrite == b.IsWrite,
            _ => true,
        };
    }

    private static string Show(Place place) => $"{place.Retired:N0} instructions, {place.Exceptions:N0} exceptions";

    /// <summary>One line about an exit.</summary>
    public static string Describe(X86Exit exit)
    {
        var text = new StringBuilder(exit.Reason.ToString());
        if (exit.Reason is ExitReason.Io or ExitReason.Mmio or ExitReason.Msr or ExitReason.CrAccess)
        {
            text.Append($" {(exit.IsWrite ? "write" : "read")} 0x{exit.Address:X}, {exit.Size} bytes");
            if (exit.IsWrite) text.Append($", 0x{exit.Data:X}");
        }
        if (exit.Reason == ExitReason.EptViolation) text.Append($" {exit.Address:X} ({exit.Violation.Wanted} at {exit.Violation.LinearAddress:X})");
        if (exit.Reason == ExitReason.Exception) text.Append($" {exit.Address} ({exit.ErrorCode:X})");
        if (exit.Message != null) text.Append(": ").Append(exit.Message);
        return text.ToString();
    }
}
