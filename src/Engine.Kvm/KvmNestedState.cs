using System.Buffers.Binary;
using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Engine.Kvm;

/// <summary>
/// VMX or SVM of a vCPU whose guest has a hypervisor: what the kernel holds of it beside registers and MSRs, a VMCS that is current for example. It moves as
/// the kernel writes it, struct kvm_nested_state of arch/x86/include/uapi/asm/kvm.h.
/// </summary>
/// <remarks>Linux Documentation/virt/kvm/api.rst, "KVM_GET_NESTED_STATE" and "KVM_SET_NESTED_STATE".</remarks>
/// <param name="size">The most bytes it can be; 0: guests have no hypervisors here.</param>
internal sealed unsafe class KvmNestedState(KvmFile file, int index, int size)
{
    /// <summary>Bytes in front of the copies of VMCSs or of a VMCB.</summary>
    public const int HeaderSize = 128;

    /// <summary>Where in it its flags and its format are, its size, and for VMX the VMXON and the current-VMCS pointer.</summary>
    private const int Flags = 0, Format = 2, Size = 4, OperationPointer = 8, CurrentPointer = 16;

    private const ushort VmxFormat = 0, GlobalInterruptFlag = 0x100;
    private const ulong NoPointer = ulong.MaxValue;

    /// <summary>What a vCPU has of it; null: as after a reset.</summary>
    public byte[]? Read()
    {
        if (size == 0) return null;
        byte[] state = Get();
        return state.AsSpan(0, HeaderSize).SequenceEqual(AtRest(FormatOf(state))) ? null : state;
    }

    /// <summary>Before the registers of another state: those of a guest inside and of its hypervisor must not mix.</summary>
    public void Leave()
    {
        if (Read() is { } state) Set(AtRest(FormatOf(state)));
    }

    /// <summary>After the system registers, which say whether VMX or SVM is on, and before the MSRs, which in a guest inside are that guest's.</summary>
    /// <param name="state">Null: there is nothing, and <see cref="Leave"/> came before.</param>
    /// <exception cref="StateFormatException">It is none, or this KVM gives its guests no hypervisors.</exception>
    /// <exception cref="KvmException">KVM refuses it.</exception>
    public void Write(byte[]? state)
    {
        if (state == null) return;
        // The kernel reads as many bytes as the state says.
        if (state.Length < HeaderSize || BinaryPrimitives.ReadUInt32LittleEndian(state.AsSpan(Size)) != state.Length)
            throw new StateFormatException($"cpu{index}: what KVM kept of the guest's hypervisor is damaged: it has {state.Length} bytes and says otherwise");
        if (size == 0)
            throw new StateFormatException($"cpu{index}: a hypervisor is at work in the guest, and this KVM gives its guests neither VMX nor SVM; "
                + "restore it on a host whose KVM does, with the same --nested");
        Set(state);
    }

    private static ushort FormatOf(byte[] state) => BinaryPrimitives.ReadUInt16LittleEndian(state.AsSpan(Format));

    private byte[] Get()
    {
        byte[] state = new byte[Math.Max(size, HeaderSize)];
        BinaryPrimitives.WriteInt32LittleEndian(state.AsSpan(Size), state.Length);
        fixed (byte* p = state) file.Request(KvmRequest.GetNestedState, p);
        return state[..Math.Clamp(BinaryPrimitives.ReadInt32LittleEndian(state.AsSpan(Size)), HeaderSize, state.Length)];
    }

    private void Set(byte[] state)
    {
        fixed (byte* p = state)
        {
            long result = file.TryRequest(KvmRequest.SetNestedState, p);
            if (result >= 0) return;
            throw new KvmException(KvmRequest.SetNestedState.Name, (int)-result, "this KVM does not take over what another one kept of the guest's hypervisor; "
                + "restore it on a host with the same processor and kernel");
        }
    }

    private static byte[] AtRest(ushort format)
    {
        byte[] state = new byte[HeaderSize];
        BinaryPrimitives.WriteUInt16LittleEndian(state.AsSpan(Format), format);
        BinaryPrimitives.WriteInt32LittleEndian(state.AsSpan(Size), HeaderSize);
        if (format == VmxFormat)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(state.AsSpan(OperationPointer), NoPointer);
            BinaryPrimitives.WriteUInt64LittleEndian(state.AsSpan(CurrentPointer), NoPointer);
        }
        else
        {
            BinaryPrimitives.WriteUInt16LittleEndian(state.AsSpan(Flags), GlobalInterruptFlag);
        }
        return state;
    }
}
