namespace Bunraku.Engines;

/// <summary>What a vCPU's thread spends its time with, as an engine in software tells it and as samples of it count.</summary>
public enum CpuWork : byte
{
    /// <summary>The vCPU is not entered: an exit is handled, by the hypervisor and the devices.</summary>
    Outside,
    /// <summary>Nothing: the vCPU is halted, or waits for its start. An engine says <see cref="Outside"/>; who takes samples knows better.</summary>
    Idle,
    /// <summary>Host code that was made of guest code, and what belongs to it.</summary>
    EmittedCode,
    /// <summary>A program of the guest runs on the host's processor as it is.</summary>
    Direct,
    /// <summary>Instructions are executed one by one, events are delivered, exits are prepared.</summary>
    Interpreter,
    /// <summary>The code to be executed next is looked for.</summary>
    LookUps,
    /// <summary>Guest code is decoded.</summary>
    Decoding,
    /// <summary>Host code is made.</summary>
    Translating,
    /// <summary>The guest's page tables are walked for an address that the TLB does not have.</summary>
    TlbMisses,
    /// <summary>Decoded and translated code is given up, because somebody wrote to it or there is no room.</summary>
    Evictions,
    /// <summary>The vCPU waits for another one: a spin loop, or the bus.</summary>
    Waiting,
}
