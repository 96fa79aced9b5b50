using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Engine.Kvm;

/// <summary>
/// Takes a KVM exit apart into exits of ours, one at a time, and puts their answers together for KVM: a string instruction comes as one exit with many
/// values, an access to MMIO may cross an 8-byte boundary.
/// </summary>
/// <remarks>Invariant: <c>run</c> is a mapping of <c>size</c> bytes; what KVM says about places in it is checked against that.</remarks>
internal sealed unsafe class ExitPieces(KvmRun* run, int size)
{
    private enum Kind { None, Io, Mmio, Msr, Single }

    private readonly X86Exit _exit = new();
    private Kind _kind;
    private ExitReason _reason;
    private ulong _address;
    private int _next, _end; // Io: elements; Mmio: bytes; Msr and others: 1

    /// <summary>Something of the exit was not returned yet.</summary>
    public bool HasNext => _next < _end;

    /// <summary>The exit is a read, so that its instruction waits for the answer.</summary>
    public bool AwaitsAnswer { get; private set; }

    /// <summary>KVM finishes the instruction only at the next entry.</summary>
    public bool AwaitsEntry => _kind is Kind.Io or Kind.Mmio or Kind.Msr;

    /// <summary>Takes KVM's current exit. Null, or what is wrong with it.</summary>
    public string? Begin()
    {
        _next = 0;
        _end = 1;
        AwaitsAnswer = false;
        switch (run->ExitReason)
        {
            case KvmExit.Io:
                _kind = Kind.Io;
                _end = (int)Math.Min(run->IoCount, int.MaxValue);
                AwaitsAnswer = run->IoIsWrite == 0;
                bool fits = run->IoSize is 1 or 2 or 4 && run->IoDataOffset <= (ulong)size && (ulong)_end * run->IoSize <= (ulong)size - run->IoDataOffset;
                return fits ? null : Refuse($"KVM_EXIT_IO with {run->IoCount} values of {run->IoSize} bytes");
            case KvmExit.Mmio:
                _kind = Kind.Mmio;
                _end = (int)run->MmioLength;
                AwaitsAnswer = run->MmioIsWrite == 0;
                return run->MmioLength is >= 1 and <= 8 ? null : Refuse($"KVM_EXIT_MMIO of {run->MmioLength} bytes");
            case KvmExit.ReadMsr:
            case KvmExit.WriteMsr:
                _kind = Kind.Msr;
                AwaitsAnswer = true; // #GP or not
                return null;
            case KvmExit.Hlt:
                return Single(ExitReason.Hlt);
            case KvmExit.InterruptWindowOpen:
                return Single(ExitReason.InterruptWindow);
            case KvmExit.Shutdown:
                return Single(ExitReason.TripleFault);
            case KvmExit.IoApicEoi:
                return Single(ExitReason.VirtualizedEoi, run->EoiVector);
            case KvmExit.SetTpr: // the change of CR8 itself was an exit
                return Single(ExitReason.Kicked);
            case KvmExit.FailEntry:
                return Refuse($"KVM_EXIT_FAIL_ENTRY: the processor refused to enter the guest, "
                    + $"reason 0x{run->HardwareReason:X} on host CPU {run->FailedOnHostCpu}");
            case KvmExit.InternalError:
                return Refuse(InternalError());
            case KvmExit.Unknown:
                return Refuse($"KVM_EXIT_UNKNOWN, hardware reason 0x{run->HardwareReason:X}");
            default:
                return Refuse($"KVM exit {run->ExitReason}, which this engine did not ask for");
        }
    }

    private string? Single(ExitReason reason, ulong address = 0)
    {
        _kind = Kind.Single;
        _reason = reason;
        _address = address;
        return null;
    }

    private string Refuse(string problem)
    {
        Clear();
        return problem;
    }

    /// <summary>Forgets the exit.</summary>
    public void Clear()
    {
        _kind = Kind.None;
        _next = _end = 0;
        AwaitsAnswer = false;
    }

    private string InternalError()
    {
        const uint emulation = 1, simultaneousExceptions = 2, deliveryEvent = 3, unexpectedExit = 4;
        string what = run->InternalSuberror switch
        {
            emulation => "KVM could not emulate an instruction",
            simultaneousExceptions => "simultaneous exceptions",
            deliveryEvent => "an exit came up while an event was delivered",
            unexpectedExit => "unexpected exit of the processor",
            _ => "unknown cause",
        };
        string details = "";
        if (run->InternalSuberror == emulation && run->InternalCount >= 1 && (run->InternalData[0] & 1) != 0)
        {
            details = ", bytes " + Convert.ToHexString(new ReadOnlySpan<byte>(run->InstructionBytes, Math.Min((int)run->InstructionSize, 15)));
        }
        else
        {
            for (int n = 0; n < Math.Min(run->InternalCount, 16u); n++) details += $" 0x{run->InternalData[n]:X}";
        }
        return $"KVM_EXIT_INTERNAL_ERROR {run->InternalSuberror}: {what}{details}";
    }

    /// <summary>The next piece. Requires <see cref="HasNext"/>.</summary>
    public X86Exit Next()
    {
        X86Exit e = _exit;
        e.Fault = false;
        e.ErrorCode = 0;
        e.Message = null;
        e.Data = 0;
        switch (_kind)
        {
            case Kind.Io:
                e.Reason = ExitReason.Io;
                e.Address = run->IoPort;
                e.Size = run->IoSize;
                e.IsWrite = run->IoIsWrite != 0;
                if (e.IsWrite) e.Data = Load((byte*)run + run->IoDataOffset + _next * e.Size, e.Size);
                _next++;
                break;
            case Kind.Mmio:
                e.Reason = ExitReason.Mmio;
                e.Address = run->MmioAddress + (uint)_next;
                e.Size = Math.Min(_end - _next, 8 - (int)(e.Address & 7));
                e.IsWrite = run->MmioIsWrite != 0;
                if (e.IsWrite) e.Data = Load(run->MmioData + _next, e.Size);
                _next += e.Size;
                break;
            case Kind.Msr:
                e.Reason = ExitReason.Msr;
                e.Address = run->MsrIndex;
                e.Size = 8;
                e.IsWrite = run->ExitReason == KvmExit.WriteMsr;
                e.Data = e.IsWrite ? run->MsrData : 0;
                _next++;
                break;
            default:
                e.Reason = _reason;
                e.Address = _address;
                _next++;
                break;
        }
        return e;
    }

    /// <summary>An exit without a KVM exit behind it.</summary>
    public X86Exit Synthetic(ExitReason reason, string? message = null)
    {
        _exit.Reason = reason;
        _exit.IsWrite = false;
        _exit.Fault = false;
        _exit.Message = message;
        return _exit;
    }

    /// <summary>Hands the answer to the piece that <see cref="Next"/> returned last over to KVM.</summary>
    public void Answer()
    {
        X86Exit e = _exit;
        switch (_kind)
        {
            case Kind.Io when !e.IsWrite:
                Store((byte*)run + run->IoDataOffset + (_next - 1) * e.Size, e.Size, e.Data);
                break;
            case Kind.Mmio when !e.IsWrite:
                Store(run->MmioData + _next - e.Size, e.Size, e.Data);
                break;
            case Kind.Msr:
                run->MsrError = e.Fault ? (byte)1 : (byte)0;
                if (!e.IsWrite) run->MsrData = e.Data;
                break;
            default:
                break;
        }
    }

    private static ulong Load(byte* from, int size)
    {
        ulong value = 0;
        new ReadOnlySpan<byte>(from, size).CopyTo(new Span<byte>(&value, sizeof(ulong)));
        return value;
    }

    private static void Store(byte* to, int size, ulong value) => new ReadOnlySpan<byte>(&value, size).CopyTo(new Span<byte>(to, size));
}
