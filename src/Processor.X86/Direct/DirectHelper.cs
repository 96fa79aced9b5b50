using System.ComponentModel;
using System.Runtime.InteropServices;
using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Processor.X86;

/// <summary>
/// A process of the host whose address space has nothing but pages of guest RAM (and <see cref="HelperImage"/>'s), and which can do nothing but compute: its
/// system calls are not executed while guest code runs, and a filter below allows none but mmap and munmap at any time. For its vCPU's thread alone.
/// </summary>
internal sealed unsafe class DirectHelper : IDisposable
{
    /// <summary>First address behind what a process can map on a host with four levels of page tables.</summary>
    public const ulong AddressEnd = 0x7FFF_FFFF_F000;

    private readonly HelperImage _image = new();
    private readonly TracedProcess _process;
    private readonly DirectRegisters _registers;
    private readonly List<HelperCall> _calls = []; // not made yet

    /// <exception cref="Win32Exception">The host refuses something that is needed.</exception>
    public DirectHelper(RamBacking memory, DirectRegisters registers)
    {
        _registers = registers;
        try
        {
            _process = new TracedProcess(_image.Bytes, memory);
        }
        catch (Win32Exception)
        {
            _image.Dispose();
            throw;
        }
        try
        {
            Confine();
            Accounting = ThreadAccounting.Of(_process.Id);
        }
        catch (Win32Exception)
        {
            Dispose();
            throw;
        }
    }

    /// <summary>The process; for running guest code.</summary>
    public TracedProcess Process => _process;

    /// <summary>Its accounts with the host's scheduler; null: the host keeps none.</summary>
    public ThreadAccounting? Accounting { get; }

    /// <summary>For <see cref="HelperTime"/>: what it has counted of this one when it left it.</summary>
    public (long Run, long Wait) Counted { get; set; }

    /// <summary>CPUID raises a fault there, so that pages that have it may be executed.</summary>
    public bool CpuidFaults { get; private set; }

    private void Confine()
    {
        CallSingly(_image.MapRoutines(_process.ImageDescriptor));
        CallSingly(_image.MapTable(_process.ImageDescriptor));
        const int setTsc = 26, tscFaults = 2, setDumpable = 4, setNoNewPrivileges = 38, cpuidFaults = 0x1012;
        const int coreLimit = 4, filterMode = 1;
        CpuidFaults = Try(new() { Number = (ulong)SystemCall.ArchPrctl, Argument0 = cpuidFaults, Argument1 = 0 });
        Call(new() { Number = (ulong)SystemCall.Prctl, Argument0 = setTsc, Argument1 = tscFaults });
        _image.Filter.Clear(); // two zeros: no core dump
        Call(new() { Number = (ulong)SystemCall.Setrlimit, Argument0 = coreLimit, Argument1 = _image.FilterAddress });
        Call(new() { Number = (ulong)SystemCall.Prctl, Argument0 = setDumpable, Argument1 = 0 });
        foreach ((uint from, uint to) in DescriptorsToClose())
            Call(new() { Number = (ulong)SystemCall.CloseRange, Argument0 = from, Argument1 = to });
        foreach (HelperCall call in _image.UnmapAll()) Call(call);
        HideImage();
        Call(new() { Number = (ulong)SystemCall.Prctl, Argument0 = setNoNewPrivileges, Argument1 = 1 });
        WriteFilter(_image.Filter);
        Call(new() { Number = (ulong)SystemCall.Seccomp, Argument0 = filterMode, Argument1 = 0, Argument2 = _image.FilterAddress });
    }

    /// <summary>
    /// Where the host has protection keys, routines and table get one that guest code has no right to: it cannot read there. (It cannot write there anyhow.)
    /// </summary>
    private void HideImage()
    {
        if (!Try(new() { Number = (ulong)SystemCall.PkeyAlloc }, out ulong key)) return;
        Hide(_image.Address, _image.TableAddress, HelperProtection.Read | HelperProtection.Execute);
        Hide(_image.TableAddress, _image.End, HelperProtection.Read);
        HiddenBy = (int)key;

        void Hide(ulong from, ulong to, HelperProtection rights) => Call(new()
        {
            Number = (ulong)SystemCall.PkeyMprotect,
            Argument0 = from,
            Argument1 = to - from,
            Argument2 = (ulong)rights,
            Argument3 = key,
        });
    }

    /// <summary>The protection key of what is not the guest's; 0: there are no keys.</summary>
    public int HiddenBy { get; private set; }

    /// <summary>First byte of routines and table.</summary>
    public ulong OwnAddress => _image.Address;

    /// <summary>Routines or table lie there.</summary>
    public bool IsOwn(ulong address) => address >= _image.Address && address < _image.End;

    /// <summary>All of the guest's pages are to go.</summary>
    public void UnmapLater()
    {
        _calls.Clear();
        _calls.AddRange(_image.UnmapAll());
    }

    /// <summary>All but the guest's RAM.</summary>
    private IEnumerable<(uint From, uint To)> DescriptorsToClose()
    {
        var ram = (uint)_process.MemoryDescriptor;
        if (ram > 0) yield return (0, ram - 1);
        yield return (ram + 1, uint.MaxValue);
    }

    /// <summary>
    /// A struct sock_fprog and its program (linux/filter.h, linux/seccomp.h): mmap and munmap of 64-bit code pass, everything else is a signal.
    /// </summary>
    private void WriteFilter(Span<byte> room)
    {
        const ushort load = 0x20, jumpIfEqual = 0x15, result = 0x06;
        const uint systemCallOffset = 0, architectureOffset = 4, x64 = 0xC000_003E, allow = 0x7FFF_0000, trap = 0x0003_0000;
        ReadOnlySpan<(ushort Code, byte IfTrue, byte IfFalse, uint K)> program =
        [
            (load, 0, 0, architectureOffset),
            (jumpIfEqual, 0, 4, x64),
            (load, 0, 0, systemCallOffset),
            (jumpIfEqual, 1, 0, (uint)SystemCall.Mmap),
            (jumpIfEqual, 0, 1, (uint)SystemCall.Munmap),
            (result, 0, 0, allow),
            (result, 0, 0, trap),
        ];
        const int header = 16;
        MemoryMarshal.Write(room, (ulong)program.Length);
        MemoryMarshal.Write(room[8..], _image.FilterAddress + header);
        for (int n = 0; n < program.Length; n++)
        {
            Span<byte> at = room[(header + n * 8)..];
            MemoryMarshal.Write(at, program[n].Code);
            (at[2], at[3]) = (program[n].IfTrue, program[n].IfFalse);
            MemoryMarshal.Write(at[4..], program[n].K);
        }
    }

    /// <summary>By the program that the process begins with.</summary>
    private void CallSingly(in HelperCall call)
    {
        TracedRegisters r;
        if (!_process.TryGetRegisters(&r)) throw Lost();
        r.Rip = _image.FirstSystemCall;
        r.OriginalRax = ulong.MaxValue;
        (r.Rax, r.Rdi, r.Rsi, r.Rdx) = (call.Number, call.Argument0, call.Argument1, call.Argument2);
        (r.R10, r.R8, r.R9) = (call.Argument3, call.Argument4, call.Argument5);
        if (!_process.TrySetRegisters(&r) || _process.RunTrusted() != TracedStop.Signal || !_process.TryGetRegisters(&r)) throw Lost();
        ThrowIfFailed(r.Rax);
    }

    private void Call(in HelperCall call)
    {
        if (!Try(call)) throw Lost();
    }

    /// <summary>Makes one call. False: the host refuses it.</summary>
    private bool Try(in HelperCall call) => Try(call, out _);

    private bool Try(in HelperCall call, out ulong result)
    {
        _image.Calls[0] = call;
        TracedRegisters r;
        result = 0;
        if (!Execute(1) || !_process.TryGetRegisters(&r)) return false;
        result = r.Rbx; // where the routine leaves it
        return true;
    }

    private static Win32Exception Lost() => new(Errno.NotPermitted, "the host refuses what a confined process needs");

    private static void ThrowIfFailed(ulong result)
    {
        if (result > unchecked((ulong)-4096)) throw new Win32Exception((int)-(long)result);
    }

    /// <summary>To be made before guest code runs there.</summary>
    public void Later(in HelperCall call) => _calls.Add(call);

    /// <summary>A page to be mapped before guest code runs there. False: it is part of the call before.</summary>
    public bool MapLater(ulong page, ulong offset, HelperProtection rights)
    {
        if (_calls.Count > 0)
        {
            ref HelperCall last = ref CollectionsMarshal.AsSpan(_calls)[^1];
            if (last.Number == (ulong)SystemCall.Mmap && last.Argument0 + last.Argument1 == page && last.Argument5 + last.Argument1 == offset
                && last.Argument2 == (ulong)rights)
            {
                last.Argument1 += GuestMemory.PageSize;
                return false;
            }
        }
        Later(HelperImage.Map(page, GuestMemory.PageSize, rights, _process.MemoryDescriptor, offset));
        return true;
    }

    /// <summary>Makes what waits. False: the host refused something, or the process is gone: it is of no use any more.</summary>
    public bool TryFinish()
    {
        for (int done = 0; done < _calls.Count;)
        {
            int count = Math.Min(_calls.Count - done, HelperImage.MostCalls);
            CollectionsMarshal.AsSpan(_calls).Slice(done, count).CopyTo(_image.Calls);
            if (!Execute(count)) return false;
            done += count;
        }
        _calls.Clear();
        return true;
    }

    /// <summary>Does all that an entry does, up to a system call in the routines that is not carried out. False: the process is gone.</summary>
    /// <param name="inside">What switching took of the helper's processor time, in nanoseconds.</param>
    public bool TryEnterForNothing(out long inside)
    {
        TracedRegisters r;
        return EnterRoutines(out inside) == TracedStop.SystemCall && _process.TryGetRegisters(&r) && _registers.TryReadArea(_process);
    }

    /// <summary>Runs from the system call in the routines to the next stop that is no interruption: the same system call, which is not carried out.</summary>
    private TracedStop EnterRoutines(out long inside)
    {
        TracedRegisters r;
        inside = 0;
        if (!_registers.TryShowAll(_process) || !_process.TryGetRegisters(&r)) return TracedStop.Ended;
        r.Rip = _image.SystemCallAddress;
        r.OriginalRax = ulong.MaxValue;
        if (!_process.TrySetRegisters(&r)) return TracedStop.Ended;
        TracedStop stop;
        do
        {
            long before = _process.ProcessorTime;
            stop = _process.Run();
            inside = _process.ProcessorTime - before;
        }
        while (stop == TracedStop.Signal && _process.WasInterrupted);
        return stop;
    }

    /// <summary>TRAP_HWBKPT, the si_code of a breakpoint of the processor (asm-generic/siginfo.h).</summary>
    public const int BreakpointCode = 4;

    /// <summary>Where the host has put it, see <see cref="ProcessorLease"/>.</summary>
    public int Placed = -1;

    private TracedRegisters _plain; // as they are set to execute calls, but for those that the routine reads
    private bool _hasPlain;

    /// <summary>Executes the first calls of the table. False: one failed, or the process is gone.</summary>
    private bool Execute(int count)
    {
        const int trap = 5; // where all are done; one that fails is an undefined instruction
        TracedRegisters r = _plain;
        if (!_hasPlain)
        {
            if (!_process.TryGetRegisters(&r)) return false;
            r.OriginalRax = ulong.MaxValue;
            r.Rflags &= ~(ulong)(Rflags.Tf | Rflags.Df);
            (_plain, _hasPlain) = (r, true);
        }
        (r.Rip, r.R12, r.R13, r.R14, r.R15) = (_image.Address, _image.TableAddress, (ulong)count, DirectRegisters.RightsWithout(HiddenBy), (ulong)HiddenBy);
        if (!_process.TrySetRegisters(&r)) return false;
        do
        {
            if (_process.RunTrusted() != TracedStop.Signal) return false;
            // An interruption that was meant for guest code comes at any time, and means nothing here.
        }
        while (_process.WasInterrupted);
        return _process.Signal == trap;
    }

    public void Dispose()
    {
        Accounting?.Dispose();
        _process?.Dispose();
        _image.Dispose();
    }
}
