using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// Where second stages of hypervisors inside the guest have its page tables, page by page. A walk of the first stage passes the second one for each of its
/// entries, which lie in few pages: with their translations at hand it reads its own four entries and the second stage's for the page in the end.
/// </summary>
/// <remarks>
/// Intel SDM vol. 3C, "Caching Translation Information": guest-physical mappings, which INVEPT drops and INVVPID does not, nor what a guest does with its own
/// tables. AMD APM vol. 2, "TLB Control": what VMRUN drops.
/// </remarks>
internal sealed class GuestPhysicalMappings
{
    private const int Size = 2048;
    /// <summary>Numbers of second stages are 1 to this, in the low bits of a tag; 0 is none.</summary>
    private const ulong LastNumber = 0xFFF;
    /// <summary>So many second stages are told apart: those of a guest's processors, and of a guest's guest.</summary>
    private const int MostStages = 8;

    private readonly record struct Mapping(ulong Tag, ulong Page, PageRights Rights);

    private readonly Mapping[] _mappings = new Mapping[Size];
    private readonly ((ulong, ushort) Key, ulong Number)[] _stages = new ((ulong, ushort), ulong)[MostStages];
    private int _oldest;
    private ulong _lastNumber, _number;
    private (ulong Tables, ushort Asid) _key;

    /// <summary>From now on mappings are those of this second stage.</summary>
    /// <param name="tables">Where its tables are, and how they are read.</param>
    /// <param name="asid">
    /// The ASID, under which AMD's processors cache everything: a hypervisor that enters its guest with another one has dropped what there was. 0 for EPT,
    /// whose mappings all VPIDs share.
    /// </param>
    public void Select(ulong tables, ushort asid)
    {
        if ((tables, asid) == _key && _number != 0) return;
        _key = (tables, asid);
        foreach (((ulong, ushort) known, ulong number) in _stages)
        {
            if (known != _key || number == 0) continue;
            _number = number;
            return;
        }
        if (_lastNumber == LastNumber)
        {
            Array.Clear(_mappings);
            Array.Clear(_stages);
            _lastNumber = 0;
        }
        _number = ++_lastNumber;
        _stages[_oldest] = (_key, _number);
        _oldest = (_oldest + 1) % MostStages;
    }

    /// <summary>The page that a guest-physical address lies in, if everything that is wanted may be done with it. False: the tables know.</summary>
    public bool TryFind(ulong address, PageRights wanted, out SecondStageResult result)
    {
        ref readonly Mapping m = ref _mappings[(int)(address >> 12) & (Size - 1)];
        if (m.Tag != TagOf(address) || (wanted & ~m.Rights) != 0)
        {
            result = default;
            return false;
        }
        result = new SecondStageResult { Outcome = SecondStageOutcome.Mapped, Page = m.Page, Rights = m.Rights };
        return true;
    }

    /// <summary>Takes over what a walk of the tables has found; what it refuses is dropped.</summary>
    public void Note(ulong address, in SecondStageResult found)
    {
        ref Mapping m = ref _mappings[(int)(address >> 12) & (Size - 1)];
        if (found.Outcome == SecondStageOutcome.Mapped) m = new(TagOf(address), found.Page, found.Rights);
        else if (m.Tag == TagOf(address)) m = default;
    }

    private ulong TagOf(ulong address) => address & ~0xFFFul | _number;

    /// <summary>Drops all mappings.</summary>
    public void Drop()
    {
        Array.Clear(_stages);
        _number = 0;
        Select(_key.Tables, _key.Asid);
    }
}
